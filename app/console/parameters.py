"""The training parameters that the console lets people set, each in a line."""

from dataclasses import dataclass
from typing import Any

from app.trainings.params import TrainingParams

# By group: the parameters a customer may want to change, and what each does. The API takes more.
GROUPS: dict[str, dict[str, str]] = {
    "How long": {
        "epochs": "Rounds over all pictures; each may leave a checkpoint.",
        "num_repeats": "How often a round shows each picture.",
        "max_steps": "Stop after so many steps, whatever the rounds say.",
        "save_every_n_epochs": "A checkpoint every so many rounds.",
        "batch_size": "Pictures learnt from at once: more is smoother and needs more memory.",
        "gradient_accumulation": "Batches put together for one step, when memory is short.",
    },
    "What is trained": {
        "rank": "How much the LoRA can hold; the file grows with it.",
        "alpha": "Strength of what is learnt, as a share of the rank. Half the rank is usual.",
        "target": "Attention for styles; full for things that must look right; conv for textures.",
        "variant": "The kind of LoRA. Other programs read lora best.",
        "train_text_encoder": "Also teach the words. Helps with names, and can spoil prompts.",
    },
    "How fast": {
        "learning_rate": "Too high burns the pictures, too low learns nothing.",
        "optimizer": "adamw is safe; adamw8bit saves memory; prodigy finds the rate itself.",
        "lr_scheduler": "How the learning rate falls towards the end.",
        "lr_warmup_steps": "Steps in which the rate rises from nothing.",
        "min_snr_gamma": "Evens out easy and hard noise levels; 5 is usual.",
        "noise_offset": "A little lets pictures become darker and brighter.",
    },
    "Pictures and captions": {
        "resolution": "Side of the square in pixels whose area each picture is brought to.",
        "flip_augment": "Also show mirror images; not for what has a left and a right.",
        "shuffle_caption": "Change the order of a caption's parts.",
        "keep_tokens": "Parts at the front that stay there, such as the trigger word.",
        "caption_dropout_rate": "Share of steps without a caption.",
        "validation_fraction": "Share of pictures held out to measure what was really learnt.",
        "seed": "The same seed and pictures make the same LoRA.",
    },
}


@dataclass(frozen=True)
class Field:
    """How a parameter is asked for."""

    kind: str
    choices: tuple[str, ...]
    least: float | None
    most: float | None


def read_fields() -> dict[str, Field]:
    """Each parameter's kind (`number`, `integer`, `boolean`, `choice`) and range, by name."""
    properties = TrainingParams.model_json_schema()["properties"]
    return {name: _field(properties[name]) for names in GROUPS.values() for name in names}


def _field(told: dict[str, Any]) -> Field:
    one = next((each for each in told.get("anyOf", ()) if each["type"] != "null"), told)
    if "enum" in one:
        return Field("choice", tuple(one["enum"]), None, None)
    return Field(
        one["type"],
        (),
        one.get("minimum", one.get("exclusiveMinimum")),
        one.get("maximum", one.get("exclusiveMaximum")),
    )
