"""Presets: the parameters that differ from the defaults for each kind of dataset.

A run's parameters are the defaults, then the preset, then what the base model's entry in the
catalog says, then what a LoRA that the run goes on from fixes, then what the customer says.
docs/presets.md gives the reason for each value.
"""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from app.catalog import BaseModelEntry
from app.trainings.params import Task, TrainingParams

# Beyond these a picture has nothing left to teach, or has not been looked at.
FEWEST_PASSES = 10
MOST_PASSES = 200
# What the passes are dealt out to; it decides how many checkpoints there are to choose from.
USUAL_EPOCHS = 10


class Preset(BaseModel):
    """A named set of parameters, and the dataset it is made for."""

    id: Task
    title: str
    # The range of images that the values are chosen for; None: no upper end.
    images_from: int
    images_to: int | None
    # How often a run shows each picture when there are `images_from` of them.
    passes: int
    params: dict[str, Any]

    def passes_for(self, images: int) -> float:
        """How often a run of so many pictures should show each: ∝ 1 / √images, in 10..200.

        So four times the pictures make the run twice as long: each brings something new, and
        something that the others have shown already.
        """
        wanted = self.passes * math.sqrt(self.images_from / max(1, images))
        return min(MOST_PASSES, max(FEWEST_PASSES, wanted))

    def schedule_for(self, images: int) -> dict[str, int]:
        """`num_repeats` and `epochs` whose product is `passes_for`, within half an epoch."""
        passes = self.passes_for(images)
        repeats = max(1, round(passes / USUAL_EPOCHS))
        return {"num_repeats": repeats, "epochs": round(passes / repeats)}


PRESETS: dict[Task, Preset] = {
    "style": Preset(
        id="style", title="Artist style", images_from=50, images_to=200, passes=100, params={}
    ),
    "product": Preset(
        id="product",
        title="Product",
        images_from=20,
        images_to=50,
        passes=120,
        params={
            "target": "full",
            "rank": 16,
            "alpha": 8.0,
            "shuffle_caption": False,
            "caption_dropout_rate": 0.0,
            "noise_offset": 0.05,
        },
    ),
    "character": Preset(
        id="character",
        title="Character",
        images_from=30,
        images_to=100,
        passes=120,
        params={
            "target": "full",
            "rank": 16,
            "alpha": 8.0,
            "caption_dropout_rate": 0.02,
        },
    ),
    "photography": Preset(
        id="photography",
        title="Photography",
        images_from=200,
        images_to=None,
        passes=40,
        params={
            "batch_size": 4,
            "caption_dropout_rate": 0.1,
            "flip_augment": True,
        },
    ),
}


def resolve(
    preset: Task,
    base_model: BaseModelEntry,
    asked: TrainingParams,
    seed: int,
    *,
    images: int,
    inherited: Mapping[str, Any] | None = None,
) -> TrainingParams:
    """The parameters of a run: the layers above, the last word with what was asked.

    Args:
        images: how many pictures the run has to learn from.
        inherited: of a LoRA to go on from; these come just before what was asked.

    Raises:
        pydantic.ValidationError: the layers do not fit together.
    """
    layers: dict[str, Any] = {"resolution": base_model.native_resolution, "seed": seed}
    layers |= PRESETS[preset].schedule_for(images)
    layers |= PRESETS[preset].params
    layers |= base_model.training
    layers |= inherited or {}
    layers |= {
        name: value
        for name, value in asked.model_dump(exclude_unset=True).items()
        if not (name == "seed" and value is None)
    }
    return TrainingParams.model_validate(layers)
