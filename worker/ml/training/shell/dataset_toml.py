"""Read sd-scripts' `dataset.toml`: the subsets it names, each with the keys that count for it.

`[[datasets.subsets]]` goes before `[[datasets]]`, and that before `[general]`. Whatever cannot be
honoured is refused by name, so a file means here what it means there or says why not.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from app.trainings.params import TrainingParams
from worker.ml.training.errors import SpecInvalid
from worker.ml.training.shell.dataset_keys import COMMAND_LINE_ONLY, KEYS, Key, Table
from worker.ml.training.shell.folders import Tell, is_utf8

_TITLES: dict[Table, str] = {
    "general": "[general]",
    "datasets": "[[datasets]]",
    "subsets": "[[datasets.subsets]]",
}
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "bool": ("true or false", (bool,)),
    "int": ("a whole number", (int,)),
    "number": ("a number", (int, float)),
    "str": ("a string", (str,)),
    "side": ("a whole number or two of them", (int, list)),
}
# The parameters that a run has once; the keys that give them may not differ between datasets.
_ONCE = {name: key.param for name, key in KEYS.items() if "subsets" not in key.tables and key.param}


@dataclass(frozen=True)
class Subset:
    """Some pictures and how they are to be shown.

    Attributes:
        where: how messages name it.
        keys: sd-scripts' keys by name, as the file's three levels leave them.
    """

    where: str
    keys: Mapping[str, Any]


@dataclass(frozen=True)
class DatasetFile:
    """What a file says.

    Attributes:
        params: of the whole run, by the names of `TrainingParams`.
        keys: which key gave each of them.
    """

    subsets: Sequence[Subset]
    params: Mapping[str, Any]
    keys: Mapping[str, str]


def read_dataset_file(path: Path, warn: Tell) -> DatasetFile:
    """Read and check a TOML file, or the same in JSON.

    Raises:
        SpecInvalid: it cannot be read, a key is unknown, misplaced, refused or of a wrong value,
            or two datasets disagree on what a run has once; the message says which and where.
    """
    data = _parsed(path)
    for name in data:
        if name not in ("general", "datasets"):
            hint = f"; {name} belongs in {_places(KEYS[name])}" if name in KEYS else ""
            raise SpecInvalid(
                f"{path.name}: {name} is unknown; a file has [general] and [[datasets]]{hint}"
            )
    general = data.get("general", {})
    if not isinstance(general, dict):
        raise SpecInvalid(f"{path.name}: general is no table")
    _check(general, "general", f"{path.name}, [general]")
    datasets = _tables(data.get("datasets", []), f"{path.name}: datasets")
    if not datasets:
        raise SpecInvalid(f"{path.name} has no [[datasets]]")
    subsets: list[Subset] = []
    runs: list[tuple[str, dict[str, Any]]] = []
    for number, dataset in enumerate(datasets, 1):
        where = f"{path.name}, [[datasets]] {number}"
        own = {name: value for name, value in dataset.items() if name != "subsets"}
        _check(own, "datasets", where)
        merged = {**general, **own}
        runs.append((where, _of_the_run(merged, where)))
        found = _tables(dataset.get("subsets", []), f"{where}: subsets")
        if not found:
            raise SpecInvalid(f"{where} has no [[datasets.subsets]]")
        for position, subset in enumerate(found, 1):
            place = f"{where}, [[datasets.subsets]] {position}"
            _check(subset, "subsets", place)
            _check_combination(subset, place)
            subsets.append(Subset(place, {**merged, **subset}))
    said = _agreed(runs)
    return DatasetFile(
        subsets=_distinct(subsets, warn),
        params=_run_params(said, general, datasets, path.name, warn),
        keys={_ONCE[name]: name for name in said},
    )


def _parsed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise SpecInvalid(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SpecInvalid(f"{path.name} is not {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(data, dict):
        raise SpecInvalid(f"{path.name} holds no tables")
    return data


def _tables(value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise SpecInvalid(f"{what} is no list of tables: write [[datasets]], with two brackets")
    return value


def _check(values: Mapping[str, Any], table: Table, where: str) -> None:
    for name, value in values.items():
        key = KEYS.get(name)
        if key is None:
            raise SpecInvalid(f"{where}: {name} is unknown{_hint(name)}")
        if table not in key.tables:
            raise SpecInvalid(f"{where}: {name} may not stand here; it belongs in {_places(key)}")
        if key.instead is not None:
            same_kind = isinstance(value, bool) == isinstance(key.harmless, bool)
            if value == key.harmless and same_kind:
                continue
            raise SpecInvalid(f"{where}: {name} = {_shown(value)} is refused: {key.instead}")
        _check_value(name, key, value, where)


def _check_value(name: str, key: Key, value: Any, where: str) -> None:
    wanted, types = _KINDS[key.kind]
    # A bool is an int to Python, but not to a reader.
    if not isinstance(value, types) or (isinstance(value, bool) and key.kind != "bool"):
        raise SpecInvalid(f"{where}: {name} is {_shown(value)}; it takes {wanted}")
    if name == "resolution":
        value = _square(value, where)
    if isinstance(value, str) and not is_utf8(value):
        raise SpecInvalid(f"{where}: {name} is {_shown(value)}, which holds half a character")
    if name == "caption_separator" and not value:
        raise SpecInvalid(f"{where}: caption_separator is empty; it takes at least one character")
    if key.param is None or value == "" or (name == "num_repeats" and value == 0):
        return
    try:
        TrainingParams.model_validate({key.param: value})
    except ValidationError as error:
        raise SpecInvalid(
            f"{where}: {name} is {_shown(value)}: {error.errors()[0]['msg']}"
        ) from error


def _square(value: Any, where: str) -> int:
    sides = value if isinstance(value, list) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise SpecInvalid(f"{where}: resolution is {_shown(value)}; it takes one or two sides")
    if sides[0] != sides[1]:
        same_area = max(8, round((sides[0] * sides[1]) ** 0.5 / 8) * 8)
        raise SpecInvalid(
            f"{where}: resolution = {sides} is not square; buckets of every shape share the area "
            f"of a square: say resolution = {same_area}, which has the same, with "
            "enable_bucket = true"
        )
    return int(sides[0])


def _check_combination(subset: Mapping[str, Any], where: str) -> None:
    if "image_dir" not in subset and "metadata_file" not in subset:
        raise SpecInvalid(f"{where}: image_dir is missing")
    for first, second, reason in (
        ("metadata_file", "caption_extension", "the metadata file holds the captions"),
        ("metadata_file", "conditioning_data_dir", "masks are found by a folder's pictures"),
        ("alpha_mask", "conditioning_data_dir", "a picture has one mask"),
    ):
        if subset.get(first) and subset.get(second):
            raise SpecInvalid(f"{where}: {first} and {second} exclude each other: {reason}")


def _of_the_run(merged: Mapping[str, Any], where: str) -> dict[str, Any]:
    said = {name: merged[name] for name in _ONCE if name in merged}
    if "resolution" in said:
        said["resolution"] = _square(said["resolution"], where)
    return said


def _agreed(runs: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """What all datasets say of the run."""
    (first, said), *others = runs
    for where, other in others:
        for name in _ONCE:
            if said.get(name) != other.get(name):
                raise SpecInvalid(
                    f"{name} is {_said(said, name)} in {first} and {_said(other, name)} in "
                    f"{where}; a run has one: say it in [general], or train twice"
                )
    return said


def _said(values: Mapping[str, Any], name: str) -> str:
    return _shown(values[name]) if name in values else "left out"


def _run_params(
    said: Mapping[str, Any],
    general: Mapping[str, Any],
    datasets: Sequence[Mapping[str, Any]],
    file: str,
    warn: Tell,
) -> dict[str, Any]:
    params = {_ONCE[name]: value for name, value in said.items()}
    step = params.get("bucket_step_px")
    if step is not None:
        # As sd-scripts does: the shortest side down, the longest up, to whole steps.
        for name, up in (("min_bucket_px", 0), ("max_bucket_px", step - 1)):
            side = params.get(name)
            if side is not None and side % step:
                params[name] = (side + up) // step * step
                key = "max_bucket_reso" if up else "min_bucket_reso"
                warn(f"{file}: {key} {side} becomes {params[name]}, a multiple of {step}")
    side = params.get("resolution")
    smallest, largest = params.get("min_bucket_px"), params.get("max_bucket_px")
    if side is not None and smallest is not None and smallest > side:
        raise SpecInvalid(f"{file}: min_bucket_reso is {smallest}, above resolution ({side})")
    if side is not None and largest is not None and largest < side:
        raise SpecInvalid(f"{file}: max_bucket_reso is {largest}, below resolution ({side})")
    without = any({**general, **dataset}.get("enable_bucket") is False for dataset in datasets)
    if without and params.get("no_upscale"):
        raise SpecInvalid(
            f"{file}: bucket_no_upscale = true needs buckets: say enable_bucket = true"
        )
    return params


def _distinct(subsets: Sequence[Subset], warn: Tell) -> list[Subset]:
    """Without those that sd-scripts leaves out too, each with a warning."""
    found: list[Subset] = []
    seen: dict[tuple[str, str], str] = {}
    for subset in subsets:
        dataset = subset.where.rpartition(",")[0]
        source = subset.keys.get("metadata_file") or subset.keys["image_dir"]
        if subset.keys.get("num_repeats") == 0:
            warn(f"{subset.where} is left out: num_repeats is 0")
        elif (dataset, source) in seen:
            warn(f"{subset.where} is left out: {seen[dataset, source]} has {source} already")
        else:
            seen[dataset, source] = subset.where
            found.append(subset)
    return found


def _shown(value: Any) -> str:
    # TOML has dates and times, which JSON has not.
    return json.dumps(value, default=str)


def _places(key: Key) -> str:
    return " or ".join(_TITLES[table] for table in get_args(Table) if table in key.tables)


def _hint(name: str) -> str:
    if name in COMMAND_LINE_ONLY:
        return f" in a file: {COMMAND_LINE_ONLY[name]}"
    near = difflib.get_close_matches(name, KEYS, n=1)
    return f"; {near[0]} is known" if near else ""
