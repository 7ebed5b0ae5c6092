"""Presets: the parameters that differ from the defaults for each kind of dataset.

A run's parameters are the defaults, then the preset, then what the base model's entry in the
catalog says, then what the customer says.
"""

from typing import Any

from pydantic import BaseModel

from app.catalog import BaseModelEntry
from app.trainings.params import Task, TrainingParams


class Preset(BaseModel):
    """A named set of parameters, and the dataset it is made for."""

    id: Task
    title: str
    # The range of images that the values are chosen for; None: no upper end.
    images_from: int
    images_to: int | None
    params: dict[str, Any]


# Chosen so that one run shows each image about 60 to 150 times within its range: fewer pictures
# need more passes, many pictures bring their own variety.
PRESETS: dict[Task, Preset] = {
    "style": Preset(id="style", title="Artist style", images_from=50, images_to=200, params={}),
    "product": Preset(
        id="product",
        title="Product",
        images_from=20,
        images_to=50,
        params={"epochs": 12, "caption_dropout_rate": 0.0, "shuffle_caption": False},
    ),
    "character": Preset(
        id="character",
        title="Character",
        images_from=30,
        images_to=100,
        params={"epochs": 12, "caption_dropout_rate": 0.02},
    ),
    "photography": Preset(
        id="photography",
        title="Photography",
        images_from=200,
        images_to=None,
        params={"num_repeats": 5, "epochs": 8, "flip_augment": True},
    ),
}


def resolve(
    preset: Task, base_model: BaseModelEntry, asked: TrainingParams, seed: int
) -> TrainingParams:
    """The parameters of a run: the layers above, the last word with what was asked.

    Raises:
        pydantic.ValidationError: the layers do not fit together.
    """
    layers: dict[str, Any] = {"resolution": base_model.native_resolution, "seed": seed}
    layers |= PRESETS[preset].params
    layers |= base_model.training
    layers |= {
        name: value
        for name, value in asked.model_dump(exclude_unset=True).items()
        if not (name == "seed" and value is None)
    }
    return TrainingParams.model_validate(layers)
