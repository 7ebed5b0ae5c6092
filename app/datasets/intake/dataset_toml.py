"""What an uploaded `dataset.toml` of sd-scripts says of the pictures beside it.

Honoured are `num_repeats`, `class_tokens` and `caption_extension`, wherever sd-scripts takes them:
they tell about pictures. The rest tells about a run, and is named in the answer with what says it
here. A subset's `image_dir` is usually a path of another machine, so folders are recognised by the
end of it.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

MAX_REPEATS = 1000
HONOURED = frozenset({"num_repeats", "class_tokens", "caption_extension", "image_dir"})
# Keys whose counterpart is a parameter of the training, by its name there.
PARAMS = {
    "resolution": "resolution",
    "batch_size": "batch_size",
    "min_bucket_reso": "min_bucket_px",
    "max_bucket_reso": "max_bucket_px",
    "bucket_reso_steps": "bucket_step_px",
    "bucket_no_upscale": "no_upscale",
    "validation_split": "validation_fraction",
    "shuffle_caption": "shuffle_caption",
    "keep_tokens": "keep_tokens",
    "keep_tokens_separator": "keep_tokens_separator",
    "caption_dropout_rate": "caption_dropout_rate",
    "caption_dropout_every_n_epochs": "caption_dropout_every_n_epochs",
    "caption_tag_dropout_rate": "tag_dropout_rate",
    "caption_prefix": "caption_prefix",
    "caption_suffix": "caption_suffix",
    "enable_wildcard": "wildcards",
    "flip_aug": "flip_augment",
    "random_crop": "random_crop",
    "alpha_mask": "alpha_mask",
}
ELSEWHERE = {
    "is_reg": "upload class pictures as a dataset of their own and name it in prior_preservation",
    "conditioning_data_dir": "masks are taken from the pictures' own transparency (alpha_mask)",
    "metadata_file": "send captions as .txt files",
    "enable_bucket": "pictures always go into buckets",
}


class DatasetFileInvalid(Exception):
    """The file cannot be read, or a value is not what sd-scripts takes."""


@dataclass(frozen=True)
class Subset:
    """What is said of the pictures of one folder; None where nothing is."""

    image_dir: str | None
    num_repeats: int | None
    class_tokens: str | None
    caption_extension: str | None

    def covers(self, folder: PurePosixPath) -> int:
        """How surely it means a folder: names its path ends with that agree; 0: not at all.

        Args:
            folder: of the upload, from its root.
        """
        if self.image_dir is None:
            return 1
        wanted = [part for part in _parts(self.image_dir) if part not in (".", "..")]
        if not wanted:
            return 1
        there = list(folder.parts)
        agreeing = 0
        for mine, other in zip(reversed(wanted), reversed(there), strict=False):
            if mine != other:
                break
            agreeing += 1
        return 1 + agreeing if agreeing else 0


@dataclass(frozen=True)
class DatasetFile:
    """A whole file: its subsets, and the keys that are not honoured, each with what would be."""

    subsets: tuple[Subset, ...]
    not_honoured: tuple[str, ...]

    def subset_for(self, folder: PurePosixPath) -> Subset | None:
        """The subset of a folder; a single subset is of every folder."""
        if len(self.subsets) == 1:
            return self.subsets[0]
        best = max(self.subsets, key=lambda subset: subset.covers(folder), default=None)
        return best if best is not None and best.covers(folder) else None

    @property
    def caption_extensions(self) -> frozenset[str]:
        """Every suffix that captions may have."""
        return frozenset(
            subset.caption_extension for subset in self.subsets if subset.caption_extension
        )


def read_dataset_file(data: bytes) -> DatasetFile:
    """Read a dataset.toml.

    Raises:
        DatasetFileInvalid: it is no TOML, or a value is of the wrong kind or out of its range.
    """
    try:
        told = tomllib.loads(data.decode("utf-8-sig"))
    # A file of brackets alone goes deeper than Python's stack.
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise DatasetFileInvalid(f"it is not TOML: {error}") from error
    general = _table(told.get("general", {}), "general")
    ignored = dict.fromkeys(_ignored("", told, frozenset({"general", "datasets"})))
    ignored |= dict.fromkeys(_ignored("general.", general, HONOURED))
    subsets = []
    for dataset in _tables(told.get("datasets", []), "datasets"):
        ignored |= dict.fromkeys(_ignored("datasets.", dataset, HONOURED | {"subsets"}))
        for subset in _tables(dataset.get("subsets", []), "datasets.subsets"):
            ignored |= dict.fromkeys(_ignored("datasets.subsets.", subset, HONOURED))
            subsets.append(_subset({**general, **dataset, **subset}))
    if not subsets:
        subsets = [_subset(general)]
    return DatasetFile(tuple(subsets), tuple(ignored))


def _subset(values: Mapping[str, Any]) -> Subset:
    repeats = values.get("num_repeats")
    if repeats is not None and (
        not isinstance(repeats, int) or isinstance(repeats, bool) or not 1 <= repeats <= MAX_REPEATS
    ):
        raise DatasetFileInvalid(
            f"num_repeats is {repeats!r}; it is a number from 1 to {MAX_REPEATS}"
        )
    extension = _text(values, "caption_extension")
    return Subset(
        image_dir=_text(values, "image_dir"),
        num_repeats=repeats,
        class_tokens=(_text(values, "class_tokens") or "").strip() or None,
        caption_extension=None if not extension else "." + extension.lower().lstrip("."),
    )


def _text(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise DatasetFileInvalid(f"{name} is {value!r}; it is a text")
    return value


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DatasetFileInvalid(f"{name} must be a table")
    return value


def _tables(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise DatasetFileInvalid(f"{name} must be an array of tables, written [[{name}]]")
    return [_table(item, name) for item in value]


def _ignored(where: str, table: Mapping[str, Any], known: frozenset[str]) -> Iterator[str]:
    for name in table:
        if name in known:
            continue
        if name in PARAMS:
            yield f"{where}{name}: say `{PARAMS[name]}` in the training's params"
        elif name in ELSEWHERE:
            yield f"{where}{name}: {ELSEWHERE[name]}"
        else:
            yield f"{where}{name[:60]}: it has no counterpart here"


def _parts(path: str) -> list[str]:
    return [part for part in path.replace("\\", "/").split("/") if part]
