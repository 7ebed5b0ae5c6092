"""The spec that a command line asks for: a file as it is, or one made from a folder of pictures.

    SPEC.json
    --config dataset.toml --base-model FOLDER_OR_HUB_ID [--set rank=16 …]
    --images FOLDER --base-model FOLDER_OR_HUB_ID [--set rank=16 …]

What is made is written to DIR/spec.json before anything else happens, and says all that decides
the LoRA: another start with that file, or with the same command, makes the same.
"""

import argparse
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from app.catalog import BaseModelEntry, Catalog, load_catalog
from app.trainings.arithmetic import BucketPlan
from app.trainings.params import Task, TrainingParams
from app.trainings.presets import PRESETS, resolve
from worker.ml.training.errors import SpecInvalid
from worker.ml.training.events import Events
from worker.ml.training.shell import dataset_config
from worker.ml.training.shell.base_facts import base_model_entry
from worker.ml.training.shell.dataset_toml import DatasetFile, Subset, read_dataset_file
from worker.ml.training.shell.folders import Tell
from worker.ml.training.spec import BaseModelSpec, TrainingSpec, fingerprint

CATALOG = Path(__file__).resolve().parents[4] / "assets" / "catalog.toml"
MAX_SEED = 2**63 - 1
SAMPLE_STEPS = 20
_NO_CATALOG = Catalog(base_models=[], captioners=[])
# What only makes sense where the spec is made here.
_MAKING = (
    "base_model",
    "base_revision",
    "catalog",
    "regularization_images",
    "name",
    "trigger_word",
    "preset",
    "set",
    "sample_prompt",
    "warm_start",
    "seed",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The ways to name a spec; checked by `spec_file`, so that every mistake is an event."""
    parser.add_argument("spec", type=Path, nargs="?", metavar="SPEC.json")
    made = parser.add_argument_group("a spec made from pictures")
    made.add_argument("--config", type=Path, metavar="FILE", help="sd-scripts' dataset.toml")
    made.add_argument(
        "--images", type=Path, metavar="FOLDER", help="pictures, or folders such as “10_sks dog”"
    )
    made.add_argument(
        "--regularization-images",
        type=Path,
        metavar="FOLDER",
        help="class pictures, beside --images",
    )
    made.add_argument("--base-model", metavar="BASE", help="a folder, a hub id or a catalog's id")
    made.add_argument("--base-revision", metavar="REVISION", help="of a hub id")
    made.add_argument("--catalog", type=Path, metavar="FILE", help="lists base models")
    made.add_argument("--name", help="of the LoRA; the output folder's unless given")
    made.add_argument("--trigger-word", metavar="WORD")
    made.add_argument("--preset", metavar="TASK", help=", ".join(get_args(Task)))
    made.add_argument("--set", action="append", metavar="NAME=VALUE", help="one parameter")
    made.add_argument("--sample-prompt", action="append", metavar="PROMPT")
    made.add_argument("--warm-start", type=Path, metavar="FILE", help="a LoRA to go on from")
    made.add_argument("--seed", metavar="N")


def spec_file(args: argparse.Namespace, events: Events) -> Path:
    """The spec to train: the one named, or the one made and written to DIR/spec.json.

    Raises:
        SpecInvalid: the options do not go together, or what they name cannot be trained.
        BaseModelUnsuitable: the hub does not give the base model.
    """
    ways = [name for name in ("spec", "config", "images") if getattr(args, name) is not None]
    if len(ways) != 1:
        raise SpecInvalid("name what to train: one of SPEC.json, --config FILE, --images FOLDER")
    if args.spec is not None:
        for name in _MAKING:
            if getattr(args, name) is not None:
                raise SpecInvalid(
                    f"--{name.replace('_', '-')} has no effect on a spec: it says all"
                )
        return Path(args.spec)
    if args.regularization_images is not None and args.images is None:
        raise SpecInvalid("--regularization-images goes with --images; a file says is_reg = true")
    path = Path(args.output, "spec.json")
    try:
        text = _make(args, events).model_dump_json(indent=1)
    except PydanticSerializationError as error:
        raise SpecInvalid(f"a caption, a prompt or a name is not UTF-8: {error}") from error
    if args.resume and path.exists():
        _check_same(path, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes that start together write the same bytes, each under a name of its own.
    draft = path.with_name(f".spec-{os.getpid()}.json")
    draft.write_text(text)
    draft.replace(path)
    return path


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Parameters from `NAME=VALUE`; a value is JSON, or else a string.

    Raises:
        SpecInvalid: naming the parameter that is unknown, given twice, or of a wrong value.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise SpecInvalid(f"--set {setting}: write NAME=VALUE")
        if name == "seed":
            raise SpecInvalid(f"--set {setting}: say --seed {text} instead")
        if name not in TrainingParams.model_fields:
            near = difflib.get_close_matches(name, TrainingParams.model_fields, n=1)
            hint = f"; {near[0]} is" if near else ""
            raise SpecInvalid(f"--set {setting}: {name} is no parameter{hint}")
        if name in found:
            raise SpecInvalid(f"--set {setting}: {name} is given twice")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        try:
            TrainingParams.model_validate({name: value})
        except ValidationError as error:
            raise SpecInvalid(f"--set {setting}: {_wrong(error)}") from error
        found[name] = value
    return found


def _make(args: argparse.Namespace, events: Events) -> TrainingSpec:
    def warn(message: str) -> None:
        events.log(message, "warning")

    asked = parse_settings(args.set or [])
    preset = _preset(args.preset)
    seed = _seed(args.seed)
    entry, catalog, catalog_path = _base_model(args)
    if args.config is not None:
        file = read_dataset_file(args.config, warn)
    else:
        file = DatasetFile(_subsets(args, warn), {}, {})
    loaded = dataset_config.load(file.subsets, events.log, warn)
    vain = [
        (param, file.keys[param], value, args.config.name)
        for param, value in file.params.items()
        if asked.get(param, value) != value
    ]
    for param, key, value, where in [*vain, *dataset_config.overruled(loaded, asked)]:
        warn(
            f"--set {param}={json.dumps(asked[param])} has no effect: {where} says "
            f"{key} = {json.dumps(value)}, and goes first"
        )
    asked |= file.params
    images = sum(len(part.pictures) for part in loaded if not part.is_class)
    if preset is not None and not _fits(preset, images):
        made_for = PRESETS[preset]
        warn(
            f"{images} pictures; {preset} is made for {made_for.images_from} "
            f"{'or more' if made_for.images_to is None else f'to {made_for.images_to}'}"
        )
    # Where a file is silent, sd-scripts' defaults count, so that it means here what it means there;
    # but a folder says nothing, and whoever names a preset wants its captions and repeats.
    caller = asked
    if args.config is None or preset is not None:
        caller = _resolved(preset or "style", entry, asked, seed, images).model_dump()
    asked |= dataset_config.alike(loaded, caller)
    params = _resolved(preset or "style", entry, asked, seed, images)
    try:
        plan = BucketPlan.for_base(params, entry.vae_scale_factor)
    except ValueError as error:
        raise SpecInvalid(str(error)) from error
    specs = dataset_config.image_specs(
        loaded, caller, params, plan, args.trigger_word, events.log, warn
    )
    warm_start = None if args.warm_start is None else args.warm_start.absolute()
    if warm_start is not None and not warm_start.is_file():
        raise SpecInvalid(f"--warm-start {args.warm_start} is no file")
    try:
        spec = TrainingSpec(
            format="lorawright.training/1",
            name=args.name or Path(args.output).resolve().name,
            trigger_word=args.trigger_word,
            params=params,
            base_model=BaseModelSpec(
                id=entry.id,
                location=entry.location(catalog_path),
                revision=entry.revision,
                architecture=entry.architecture,
                native_resolution=entry.native_resolution,
                vae_scale_factor=entry.vae_scale_factor,
                **catalog.variant(entry, catalog_path),
            ),
            images=specs,
            warm_start=None if warm_start is None else str(warm_start),
            sample_prompts=args.sample_prompt or [],
            sample_steps=min(SAMPLE_STEPS, entry.generation.steps),
            sample_guidance_scale=entry.generation.guidance_scale,
        )
    except ValidationError as error:
        raise SpecInvalid(_wrong(error)) from error
    return spec if args.seed is not None else _seeded(spec, events)


def _subsets(args: argparse.Namespace, warn: Tell) -> list[Subset]:
    found = dataset_config.subsets_of_folder(args.images, is_class=False, warn=warn)
    if args.regularization_images is not None:
        found += dataset_config.subsets_of_folder(
            args.regularization_images, is_class=True, warn=warn
        )
    return found


def _preset(asked: str | None) -> Task | None:
    for task in get_args(Task):
        if asked == task:
            return task
    if asked is None:
        return None
    raise SpecInvalid(f"--preset {asked} is none of {', '.join(get_args(Task))}")


def _fits(preset: Task, images: int) -> bool:
    most = PRESETS[preset].images_to
    return PRESETS[preset].images_from <= images and (most is None or images <= most)


def _seed(asked: str | None) -> int:
    if asked is None:
        return 0
    if not asked.isdecimal() or int(asked) > MAX_SEED:
        raise SpecInvalid(f"--seed {asked} is no whole number from 0 to {MAX_SEED}")
    return int(asked)


def _base_model(args: argparse.Namespace) -> tuple[BaseModelEntry, Catalog, Path]:
    if args.base_model is None:
        raise SpecInvalid("--base-model is missing: a folder, a hub id or a catalog's id")
    path = args.catalog or CATALOG
    try:
        catalog = load_catalog(path) if path.exists() or args.catalog else _NO_CATALOG
    except (OSError, ValueError) as error:
        raise SpecInvalid(f"--catalog {path}: {error}") from error
    entry = base_model_entry(args.base_model, args.base_revision, catalog, path)
    if entry.source_kind == "s3":
        raise SpecInvalid(
            f"--base-model {entry.id} is in the service's storage, which only its workers read; "
            'put the file here and list it with source_kind = "file"'
        )
    return entry, catalog, path


def _resolved(
    preset: Task, entry: BaseModelEntry, asked: Mapping[str, Any], seed: int, images: int
) -> TrainingParams:
    """Defaults, preset, base model, what was asked: each goes before the one it follows."""
    try:
        return resolve(preset, entry, TrainingParams.model_validate(asked), seed, images=images)
    except ValidationError as error:
        raise SpecInvalid(_wrong(error)) from error


def _seeded(spec: TrainingSpec, events: Events) -> TrainingSpec:
    """With a seed that follows from all the rest, so that the same command makes the same LoRA."""
    seed = int(fingerprint(spec)[:8], 16)
    events.log(f"the seed is {seed}; --seed chooses another")
    return spec.model_copy(update={"params": spec.params.model_copy(update={"seed": seed})})


def _check_same(path: Path, text: str) -> None:
    """Going on needs the very spec that was begun with.

    Raises:
        SpecInvalid: naming the first value that differs.
    """
    try:
        before = dict(_leaves(json.loads(path.read_text())))
    except (OSError, ValueError) as error:
        raise SpecInvalid(f"--resume: {path} cannot be read: {error}") from error
    now = dict(_leaves(json.loads(text)))
    for name in {**before, **now}:
        # A seed that nobody chose follows from the rest, so it is never the cause.
        if name != "params.seed" and before.get(name) != now.get(name):
            raise SpecInvalid(
                f"--resume: {name} is {json.dumps(now.get(name))}, and was "
                f"{json.dumps(before.get(name))} when {path} was made: leave it as it was, or "
                "train into another folder"
            )
    if before != now:
        raise SpecInvalid(
            f"--resume: the seed is {now['params.seed']}, and was {before.get('params.seed')} when "
            f"{path} was made: say --seed {before.get('params.seed')}"
        )


def _leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Every single value in a JSON document, by its path."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return [(name, value)]
    return [
        leaf for key, item in items for leaf in _leaves(item, f"{name}.{key}" if name else str(key))
    ]


def _wrong(error: ValidationError) -> str:
    """What is wrong, with the value that was seen."""
    return "; ".join(
        ": ".join(part for part in (".".join(map(str, item["loc"])), item["msg"].strip()) if part)
        for item in error.errors()[:5]
    )
