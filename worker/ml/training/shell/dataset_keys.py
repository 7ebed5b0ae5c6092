"""Every key of sd-scripts' `dataset.toml`, as of v0.10: where it may stand, what becomes of it."""

from dataclasses import dataclass
from typing import Any, Literal

Table = Literal["general", "datasets", "subsets"]
# What sd-scripts takes: `side` is a whole number or two of them, `any` is left to the key's rule.
Kind = Literal["bool", "int", "number", "str", "side", "any"]

_EVERYWHERE: tuple[Table, ...] = ("general", "datasets", "subsets")
_RUN: tuple[Table, ...] = ("general", "datasets")
_SUBSET: tuple[Table, ...] = ("subsets",)


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        tables: where it may stand.
        param: the parameter of `TrainingParams` that says the same; None: it has none.
        default: what sd-scripts takes when nobody says; None: it is left to the run.
        instead: of a key that is refused, why, and what would work; None: it is honoured.
        harmless: the one value of a refused key that changes nothing, so that it may stay.
    """

    kind: Kind
    tables: tuple[Table, ...]
    param: str | None = None
    default: Any = None
    instead: str | None = None
    harmless: Any = None


KEYS: dict[str, Key] = {
    # --- of the whole run
    "resolution": Key("side", _RUN, "resolution"),
    "batch_size": Key("int", _RUN, "batch_size"),
    "enable_bucket": Key("bool", _RUN),
    "min_bucket_reso": Key("int", _RUN, "min_bucket_px"),
    "max_bucket_reso": Key("int", _RUN, "max_bucket_px"),
    "bucket_reso_steps": Key("int", _RUN, "bucket_step_px"),
    "bucket_no_upscale": Key("bool", _RUN, "no_upscale"),
    "validation_split": Key("number", _RUN, "validation_fraction"),
    "validation_seed": Key(
        "int",
        _RUN,
        instead="which pictures are held out follows from the run's seed: say --seed instead",
    ),
    "network_multiplier": Key(
        "number",
        _RUN,
        instead="a LoRA is trained at the strength it is used at: say --set alpha=… to scale it",
        harmless=1.0,
    ),
    # --- of a subset's pictures
    "image_dir": Key("str", _SUBSET),
    "metadata_file": Key("str", _SUBSET),
    "conditioning_data_dir": Key("str", _SUBSET),
    "is_reg": Key("bool", _SUBSET, default=False),
    "alpha_mask": Key("bool", _SUBSET, "alpha_mask", default=False),
    "num_repeats": Key("int", _EVERYWHERE, "num_repeats", default=1),
    "flip_aug": Key("bool", _EVERYWHERE, "flip_augment", default=False),
    "random_crop": Key("bool", _EVERYWHERE, "random_crop", default=False),
    "color_aug": Key(
        "bool",
        _EVERYWHERE,
        instead="latents are made once, so colours cannot change from pass to pass: put coloured "
        "copies of the pictures into the folder",
        harmless=False,
    ),
    "face_crop_aug_range": Key(
        "any",
        _EVERYWHERE,
        instead="faces are not looked for: crop the pictures beforehand, or say random_crop = true",
    ),
    "resize_interpolation": Key(
        "str",
        _EVERYWHERE,
        instead='pictures are always resized with "lanczos"; resize them beforehand for another',
        harmless="lanczos",
    ),
    "cache_info": Key(
        "bool",
        _EVERYWHERE,
        instead="sizes and captions are read from the files at every start, and latents are "
        "cached by themselves: leave it out",
        harmless=False,
    ),
    "custom_attributes": Key(
        "any",
        _EVERYWHERE,
        instead="an SDXL LoRA has no use for them: leave it out",
        harmless={},
    ),
    # --- of their captions
    "class_tokens": Key("str", _EVERYWHERE),
    "caption_extension": Key("str", _EVERYWHERE),
    "caption_prefix": Key("str", _EVERYWHERE, "caption_prefix", default=""),
    "caption_suffix": Key("str", _EVERYWHERE, "caption_suffix", default=""),
    "caption_separator": Key("str", _EVERYWHERE, default=","),
    "secondary_separator": Key("str", _EVERYWHERE),
    "shuffle_caption": Key("bool", _EVERYWHERE, "shuffle_caption", default=False),
    "keep_tokens": Key("int", _EVERYWHERE, "keep_tokens", default=0),
    "keep_tokens_separator": Key("str", _EVERYWHERE, "keep_tokens_separator"),
    "enable_wildcard": Key("bool", _EVERYWHERE, "wildcards", default=False),
    "caption_dropout_rate": Key("number", _EVERYWHERE, "caption_dropout_rate", default=0.0),
    "caption_dropout_every_n_epochs": Key(
        "int", _EVERYWHERE, "caption_dropout_every_n_epochs", default=0
    ),
    "caption_tag_dropout_rate": Key("number", _EVERYWHERE, "tag_dropout_rate", default=0.0),
    "token_warmup_step": Key(
        "number",
        _EVERYWHERE,
        instead="captions have all their tags from the first step on: say "
        "caption_tag_dropout_rate to leave some out",
        harmless=0,
    ),
    "token_warmup_min": Key(
        "int",
        _EVERYWHERE,
        instead="it says how token_warmup_step begins, which is not offered: leave both out",
        harmless=1,
    ),
}

# Words of sd-scripts' command line, which its files do not take either.
COMMAND_LINE_ONLY = {
    "prior_loss_weight": "say --set 'prior_preservation={\"weight\": …}'",
    "max_token_length": "captions are cut at the text encoders' 77 tokens; leave it out",
    "debug_dataset": "the spec.json in the output folder shows what became of the pictures",
    "train_batch_size": "in the file its name is batch_size",
    "dataset_repeats": "in the file its name is num_repeats",
    "train_data_dir": "in the file its name is image_dir",
    "in_json": "in the file its name is metadata_file",
}
