"""From subsets of pictures, however they were named, to the images of a spec.

What all subsets say alike becomes a parameter of the run; what differs stays with the images.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.trainings.arithmetic import BucketPlan
from app.trainings.params import TrainingParams
from worker.ml.training.errors import SpecInvalid
from worker.ml.training.shell.dataset_keys import KEYS
from worker.ml.training.shell.dataset_toml import Subset
from worker.ml.training.shell.folders import (
    Picture,
    PictureUnfit,
    Tell,
    contents,
    looks_like_picture,
    measure,
    measure_all,
    pictures_in,
    repeats_and_class,
)
from worker.ml.training.spec import CaptionOptions, ImageSpec

# Parameters that each subset may set, by sd-scripts' key.
SUBSET_PARAMS = {
    name: key.param for name, key in KEYS.items() if "subsets" in key.tables and key.param
}
# As many as the run itself may have.
MAX_REPEATS = 1000
# Of many pictures a message names so many.
_NAMED = 3


@dataclass(frozen=True)
class Loaded:
    """A subset and the usable pictures it names.

    Attributes:
        masks: by the picture's path; empty where the subset has none.
    """

    subset: Subset
    pictures: Sequence[Picture]
    masks: Mapping[Path, Picture] = field(default_factory=dict)

    @property
    def is_class(self) -> bool:
        """Whether these are class pictures for prior preservation."""
        return bool(self.subset.keys.get("is_reg", False))

    def options(self, caller: Mapping[str, Any]) -> dict[str, Any]:
        """Its parameters: what the subset says, else the caller, else sd-scripts' default."""
        keys = self.subset.keys
        found = {
            param: keys.get(name, caller.get(param, KEYS[name].default))
            for name, param in SUBSET_PARAMS.items()
        }
        # An empty mark marks nothing.
        found["keep_tokens_separator"] = found["keep_tokens_separator"] or None
        return found


def subsets_of_folder(folder: Path, *, is_class: bool, warn: Tell) -> list[Subset]:
    """The subsets of a plain folder, of one of kohya's (`10_sks dog`), or of a folder of those.

    Raises:
        SpecInvalid: it is no folder, or holds pictures beside kohya's folders.
    """
    entries = contents(folder)
    named = [path for path in entries if path.is_dir() and repeats_and_class(path.name)]
    pictures = [path.name for path in entries if looks_like_picture(path)]
    if named and pictures:
        raise SpecInvalid(
            f"{folder} holds pictures, such as {pictures[0]}, beside folders with repeats, such as "
            f"{named[0].name}: move the pictures into a folder such as 1_name"
        )
    if named:
        for path in entries:
            if path not in named:
                warn(f"{path.name} in {folder.name} is skipped: no folder named like 10_name")
    found: list[Subset] = []
    for path in named or [folder]:
        repeats, words = repeats_and_class(path.resolve().name) or (None, "")
        if repeats == 0:
            warn(f"{path.name} is left out: its repeats are 0")
            continue
        if repeats is not None and repeats > MAX_REPEATS:
            raise SpecInvalid(
                f"the name of {path} asks for {repeats} repeats; at most {MAX_REPEATS} can be: "
                "rename it"
            )
        keys: dict[str, Any] = {
            "image_dir": str(path),
            "is_reg": is_class,
            "enable_bucket": True,
        }
        if repeats is not None:
            keys["num_repeats"] = repeats
        if words:
            keys["class_tokens"] = words
        found.append(Subset(str(path), keys))
    return found


def load(subsets: Sequence[Subset], tell: Tell, warn: Tell) -> list[Loaded]:
    """Look at every picture of every subset.

    Raises:
        SpecInvalid: a folder or a file of captions cannot be read, a mask is missing or broken,
            or there is no usable picture to learn from.
    """
    found: list[Loaded] = []
    for subset in subsets:
        loaded = _load(subset, tell, warn)
        if loaded.pictures:
            tell(f"{subset.where}: {len(loaded.pictures)} pictures")
            found.append(loaded)
        else:
            warn(f"{subset.where} has no usable picture")
    if not any(not loaded.is_class for loaded in found):
        what = "only class pictures (is_reg = true)" if found else "no usable picture"
        raise SpecInvalid(f"there is {what}, so nothing to learn from")
    return found


def overruled(
    loaded: Sequence[Loaded], asked: Mapping[str, Any]
) -> Iterator[tuple[str, str, Any, str]]:
    """What was asked in vain, as every subset says otherwise: parameter, key, value, and where."""
    for name, param in SUBSET_PARAMS.items():
        if param in asked and all(
            part.subset.keys.get(name, asked[param]) != asked[param] for part in loaded
        ):
            subset = loaded[0].subset
            yield param, name, subset.keys[name], subset.where


def alike(loaded: Sequence[Loaded], caller: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that all subsets say alike."""
    first, *others = (part.options(caller) for part in loaded)
    return {
        param: value
        for param, value in first.items()
        if all(other[param] == value for other in others)
    }


def image_specs(
    loaded: Sequence[Loaded],
    caller: Mapping[str, Any],
    params: TrainingParams,
    plan: BucketPlan,
    trigger_word: str | None,
    tell: Tell,
    warn: Tell,
) -> list[ImageSpec]:
    """The images of a spec; what they share with the run's parameters is left to those.

    Args:
        caller: parameters that count where a subset is silent.
        trigger_word: the caption of pictures that have neither one nor class tokens.

    Raises:
        SpecInvalid: `enable_bucket = false` would crop a picture to a square.
    """
    found: list[ImageSpec] = []
    for part in loaded:
        _check_buckets(part, plan, tell)
        options = part.options(caller)
        captions = _caption_options(part, options, params)
        own = {
            name: options[param]
            for name, param in (
                ("repeats", "num_repeats"),
                ("flip_augment", "flip_augment"),
                ("random_crop", "random_crop"),
                ("alpha_mask", "alpha_mask"),
            )
            if options[param] != getattr(params, param)
        }
        words = part.subset.keys.get("class_tokens") or ""
        if not words and trigger_word and not part.is_class:
            words = trigger_word
        _tell_of_captions(part, options, words, trigger_word, tell, warn)
        for picture in part.pictures:
            mask = part.masks.get(picture.path)
            found.append(
                ImageSpec(
                    path=str(picture.path.absolute()),
                    sha256=picture.sha256,
                    width=picture.width,
                    height=picture.height,
                    caption=_lines(picture.caption or words, options["wildcards"]),
                    regularization=part.is_class,
                    mask_path=None if mask is None else str(mask.path.absolute()),
                    mask_sha256=None if mask is None else mask.sha256,
                    captions=captions,
                    **own,
                )
            )
    return found


def _load(subset: Subset, tell: Tell, warn: Tell) -> Loaded:
    keys = subset.keys
    folder = None if "image_dir" not in keys else Path(keys["image_dir"])
    if folder is not None and not os.path.isdir(folder):
        raise SpecInvalid(
            f"{subset.where}: image_dir is {folder}, which is no folder (a relative path starts "
            f"from {Path.cwd()}, where the program was started)"
        )
    if "metadata_file" in keys:
        separator = keys.get("caption_separator", KEYS["caption_separator"].default)
        metadata = Path(keys["metadata_file"])
        return Loaded(subset, _listed(metadata, folder, separator, subset.where, warn))
    assert folder is not None, "a subset has a folder or a metadata file"
    pictures = pictures_in(folder, tell, warn, keys.get("caption_extension"))
    if "conditioning_data_dir" not in keys:
        return Loaded(subset, pictures)
    masks = _masks(Path(keys["conditioning_data_dir"]), pictures, subset.where, warn)
    return Loaded(subset, pictures, masks)


def _listed(
    metadata: Path, folder: Path | None, separator: str, where: str, warn: Tell
) -> list[Picture]:
    """The pictures that a metadata file lists, with the captions it gives."""
    captions: dict[Path, str | None] = {}
    for name, entry in _entries(metadata, where).items():
        path = Path(name)
        if not path.is_absolute():
            if folder is None:
                raise SpecInvalid(f"{where}: {metadata.name} has {name}, so image_dir is needed")
            path = folder / path
        captions[path] = _tagged(entry, separator, f"{metadata.name}, {name}")
    present = [path for path in captions if os.path.isfile(path)]
    for path in captions:
        if not os.path.isfile(path):
            warn(f"{path.name} is skipped: {metadata.name} lists it, but there is no such file")
    return [
        Picture(found.path, found.sha256, found.width, found.height, captions[found.path])
        for found in measure_all(present, warn)
    ]


def _entries(metadata: Path, where: str) -> dict[str, dict[str, Any]]:
    """By path: `{path: {…}}` in JSON, or a `{"image_path": path, …}` on each line of JSONL."""
    try:
        text = metadata.read_text(encoding="utf-8-sig")
        if metadata.suffix.lower() == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            data = {row["image_path"]: row for row in rows}
        else:
            data = json.loads(text)
    except OSError as error:
        raise SpecInvalid(f"{where}: {metadata} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SpecInvalid(f"{where}: {metadata.name} is no list of images: {error}") from error
    if not isinstance(data, dict) or not all(isinstance(entry, dict) for entry in data.values()):
        raise SpecInvalid(
            f"{where}: {metadata.name} is not of the form {{path: {{caption, tags}}}}"
        )
    return data


def _tagged(entry: Mapping[str, Any], separator: str, where: str) -> str | None:
    """An entry's caption with its tags behind each line."""
    caption, tags = entry.get("caption") or "", entry.get("tags") or ""
    if not isinstance(caption, str) or not isinstance(tags, str):
        raise SpecInvalid(f"{where}: caption and tags take strings")
    tags = tags.replace("\n", separator)
    lines = [line for line in caption.split("\n") if line.strip()]
    if not tags:
        return "\n".join(lines) or None
    return "\n".join(f"{line}{separator}{tags}" for line in lines) or tags


def _masks(
    folder: Path, pictures: Sequence[Picture], where: str, warn: Tell
) -> dict[Path, Picture]:
    """The mask of each picture: the picture of the same name, whatever its ending."""
    if not os.path.isdir(folder):
        raise SpecInvalid(f"{where}: conditioning_data_dir is {folder}, which is no folder")
    by_stem = {path.stem: path for path in contents(folder) if looks_like_picture(path)}
    missing = [picture.path.name for picture in pictures if picture.path.stem not in by_stem]
    if missing:
        raise SpecInvalid(
            f"{where}: conditioning_data_dir {folder} lacks the masks of {_some(missing)}"
        )
    for extra in sorted(by_stem.keys() - {picture.path.stem for picture in pictures}):
        warn(f"{by_stem[extra].name} in {folder.name} is skipped: it is the mask of no picture")
    found: dict[Path, Picture] = {}
    for picture in pictures:
        try:
            found[picture.path] = measure(by_stem[picture.path.stem])
        except PictureUnfit as error:
            name = by_stem[picture.path.stem].name
            raise SpecInvalid(f"{where}: the mask {name} cannot be used: {error}") from error
    return found


def _check_buckets(part: Loaded, plan: BucketPlan, tell: Tell) -> None:
    enabled = part.subset.keys.get("enable_bucket")
    square = (plan.resolution, plan.resolution)
    other = [
        f"{picture.path.name} ({picture.width}x{picture.height})"
        for picture in part.pictures
        if plan.nearest(picture.width, picture.height) != square
    ]
    if enabled is False and other:
        raise SpecInvalid(
            f"{part.subset.where}: enable_bucket = false would make {plan.resolution}x"
            f"{plan.resolution} of every picture; {_some(other)} would come into another bucket "
            "here: say enable_bucket = true, or crop the pictures to squares"
        )
    if enabled is None and other:
        tell(
            f"{part.subset.where}: pictures keep their shape, in buckets; {_some(other)} "
            f"are not of {plan.resolution}x{plan.resolution}"
        )


def _caption_options(
    part: Loaded, options: Mapping[str, Any], params: TrainingParams
) -> CaptionOptions | None:
    keys = part.subset.keys
    names = CaptionOptions.model_fields.keys() & TrainingParams.model_fields.keys()
    separator = keys.get("caption_separator", KEYS["caption_separator"].default)
    secondary = keys.get("secondary_separator") or None
    own = CaptionOptions(
        separator=separator,
        secondary_separator=secondary,
        **{name: options[name] for name in names},
    )
    runs = CaptionOptions(**{name: getattr(params, name) for name in names})
    return None if own == runs else own


def _tell_of_captions(
    part: Loaded,
    options: Mapping[str, Any],
    words: str,
    trigger_word: str | None,
    tell: Tell,
    warn: Tell,
) -> None:
    bare = [picture.path.name for picture in part.pictures if picture.caption is None]
    if bare and words:
        tell(f"{part.subset.where}: {_some(bare)} without a caption of their own, so “{words}”")
    elif bare:
        warn(f"{part.subset.where}: {_some(bare)} without any caption; class_tokens would be one")
    if trigger_word and not part.is_class:
        around = f"{options['caption_prefix']}\n{options['caption_suffix']}\n"
        lacking = [
            picture.path.name
            for picture in part.pictures
            if trigger_word.lower() not in (around + (picture.caption or words)).lower()
        ]
        if lacking:
            warn(
                f"{part.subset.where}: the captions of {_some(lacking)} lack the trigger word "
                f"{trigger_word}, so it will not stand for them"
            )


def _lines(text: str, wildcards: bool) -> str:
    """A caption's first line, or all of them where each may be chosen."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return "\n".join(lines if wildcards else lines[:1])


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
