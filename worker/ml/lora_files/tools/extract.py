"""A LoRA of what a fine-tune has changed: the difference of two checkpoints, cut to a low rank.

No network is built. The weights are read one at a time, so memory holds a few copies of the
largest, whatever the size of the checkpoints.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from app.checkpoints import NotACheckpoint, checkpoint_parts
from app.lora_format.architectures import Architecture, architectures
from app.lora_format.errors import LoraFileError
from worker.ml.base_models.errors import BaseModelUnavailable
from worker.ml.base_models.load import local_path
from worker.ml.base_models.single_file_names import place_of
from worker.ml.lora_files.modules import AdapterModule, Lora
from worker.ml.lora_files.targets import TARGETS, TEXT_TARGETS, canonical_path
from worker.ml.lora_files.tools import metadata
from worker.ml.lora_files.tools.low_rank import RankChoice, decompose_matrix, low_rank_module
from worker.ml.lora_files.tools.report import ModuleOutcome, Tell, ToolReport, tell_nobody

Targets = Literal["attention", "full", "conv"]

_WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}


class CheckpointsDiffer(LoraFileError):
    """The two checkpoints are not of one architecture."""

    code = "checkpoints_differ"


class NothingToExtract(LoraFileError):
    """No weight that a LoRA of these targets can change differs."""

    code = "nothing_to_extract"


@dataclass(frozen=True)
class Checkpoint:
    """A folder with `model_index.json`, a hub id and revision, or a single `.safetensors` file."""

    location: str
    revision: str | None = None

    @property
    def is_file(self) -> bool:
        """Whether all its weights are in one file, under the reference implementation's names."""
        return self.location.endswith(".safetensors")


def extract(
    base: Checkpoint,
    tuned: Checkpoint,
    architecture: Architecture,
    choice: RankChoice,
    *,
    titles: tuple[str, str],
    targets: Targets = "full",
    text_encoders: bool = False,
    dtype: torch.dtype = torch.float16,
    tell: Tell = tell_nobody,
) -> tuple[Lora, ToolReport]:
    """Cut W(tuned) - W(base) of every target down to its largest singular values.

    Weights that are the same in both have no module in the result. The report's notes say how
    many differing weights (norms, biases, modules outside the targets) a LoRA leaves as they were;
    of two single files, norms are not looked at.

    Args:
        architecture: of both.
        titles: of base and fine-tune, for people.
        targets: modules of the UNet, named as a training's `target`.
        text_encoders: extract from both text encoders too.
        dtype: of the result's matrices; the errors told are those of the rounded ones.
        tell: called before each target.

    Raises:
        CheckpointsDiffer: a weight is missing from one, or has another shape; the message names it.
        NothingToExtract: no target differs.
        BaseModelUnavailable: a checkpoint has no safetensors weights.
    """
    wanted = _wanted(architecture, targets, text_encoders)
    modules: dict[str, AdapterModule] = {}
    outcomes: dict[str, ModuleOutcome] = {}
    left: list[str] = []
    seen: set[str] = set()
    components = ["unet", "text_encoder", "text_encoder_2"] if text_encoders else ["unet"]
    for component in components:
        with _both(base, tuned, component, architecture) as (before, after):
            _same_shapes(before, after, component)
            _of_architecture(before, architecture, component)
            for name in sorted(before):
                path = canonical_path(component, name.removesuffix(".weight"))
                if path in wanted:
                    tell(len(seen), len(wanted))
                    seen.add(path)
                difference = after[name].read() - before[name].read()
                if not difference.any():
                    continue
                if not name.endswith(".weight") or path not in wanted:
                    left.append(f"{component}.{name}")
                    continue
                flat = difference.flatten(1)
                singular = decompose_matrix(flat)
                rank = choice.of(singular.values)
                weight = architecture.weights[path]
                module = low_rank_module(singular, rank, weight, dtype)
                off = float((flat - module.delta().double()).norm())
                modules[path] = module
                outcomes[path] = ModuleOutcome(rank, float(flat.norm()), off)
    if not modules:
        raise NothingToExtract(
            f"{titles[1]} has the same weights as {titles[0]} in every module of {targets}"
            + (f"; {len(left)} others differ, such as {left[0]}" if left else "")
        )
    note = f"{len(left)} other weights differ and are not in it, such as {left[0]}" if left else ""
    report = ToolReport(outcomes, (note,) if note else ())
    done = (
        f"extracted from {titles[1]} over {titles[0]}, targets {targets}"
        f"{' and text encoders' if text_encoders else ''}, with an error of {report.error:.3g}"
    )
    result = Lora(modules)
    words = metadata.of_extracted(architecture.id, result, done)
    return Lora(modules, words), report


def architecture_of(base: Checkpoint) -> Architecture:
    """The known architecture that a checkpoint's UNet has.

    Raises:
        CheckpointsDiffer: it has none of them.
        BaseModelUnavailable: it has no safetensors weights.
    """
    reasons = []
    for each in architectures().values():
        with _weights(base, "unet", each) as found:
            try:
                _of_architecture(found, each, "unet")
            except CheckpointsDiffer as error:
                reasons.append(str(error))
            else:
                return each
    raise CheckpointsDiffer("; ".join(reasons))


def _wanted(architecture: Architecture, targets: Targets, text_encoders: bool) -> set[str]:
    endings = TARGETS[targets]
    return {
        path
        for path in architecture.weights
        if (path.startswith("unet.") and path.endswith(endings))
        or (text_encoders and path.startswith("text_encoder") and path.endswith(TEXT_TARGETS))
    }


@dataclass(frozen=True)
class _Stored:
    """A tensor in a file that is open."""

    file: Any
    name: str
    # Makes the parameter of what the file has under that name.
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor

    @property
    def shape(self) -> tuple[int, ...]:
        stored = torch.empty(self.file.get_slice(self.name).get_shape(), device="meta")
        return tuple(self.convert(stored).shape)

    def read(self) -> Tensor:
        """Its values, float64."""
        return self.convert(self.file.get_tensor(self.name)).double()


@contextmanager
def _both(
    base: Checkpoint, tuned: Checkpoint, component: str, architecture: Architecture
) -> Iterator[tuple[dict[str, _Stored], dict[str, _Stored]]]:
    """The component's tensors in both; a single file is asked for all that a folder has."""
    with ExitStack() as stack:
        if base.is_file and not tuned.is_file:
            after = stack.enter_context(_weights(tuned, component, architecture))
            before = stack.enter_context(_weights(base, component, architecture, after))
        else:
            before = stack.enter_context(_weights(base, component, architecture))
            names = None if base.is_file else before
            after = stack.enter_context(_weights(tuned, component, architecture, names))
        yield before, after


@contextmanager
def _weights(
    checkpoint: Checkpoint,
    component: str,
    architecture: Architecture,
    names: Collection[str] | None = None,
) -> Iterator[dict[str, _Stored]]:
    """Every tensor of a component by its name, read when asked for; shards are one.

    Args:
        names: what to look for in a single file, whose own names are others; None: the weights and
            biases of the architecture's modules.
    """
    with ExitStack() as stack:
        if checkpoint.is_file:
            file = _open(stack, Path(checkpoint.location))
            yield _of_single_file(file, checkpoint, component, architecture, names)
            return
        found: dict[str, _Stored] = {}
        for path in _files(checkpoint, component):
            file = _open(stack, path)
            # CLIPTextModel lost this level in newer transformers.
            found |= {
                _plain(component, name): _Stored(file, name)
                for name in file.keys()  # noqa: SIM118 (no dict)
            }
        yield found


def _open(stack: ExitStack, path: Path) -> Any:
    try:
        return stack.enter_context(safe_open(str(path), framework="pt"))
    except (SafetensorError, OSError) as error:
        raise BaseModelUnavailable(f"{path}: {error}") from error


def _of_single_file(
    file: Any,
    checkpoint: Checkpoint,
    component: str,
    architecture: Architecture,
    names: Collection[str] | None,
) -> dict[str, _Stored]:
    keys = frozenset(file.keys())
    try:
        parts = checkpoint_parts(keys).parts
    except NotACheckpoint as error:
        raise BaseModelUnavailable(f"{checkpoint.location}: {error}") from error
    if component not in parts:
        raise BaseModelUnavailable(f"{checkpoint.location} has no {component}")
    wanted = names if names is not None else _parameters(component, architecture)
    places = {name: place_of(component, name, unet=architecture.shape) for name in wanted}
    return {
        name: _Stored(file, place.key, place.convert)
        for name, place in places.items()
        if place.key in keys
    }


def _parameters(component: str, architecture: Architecture) -> list[str]:
    """Names of the weights and biases of a component's modules."""
    return [
        _plain(component, f"{path.removeprefix(component)[1:]}.{kind}")
        for path in architecture.weights
        if path.startswith(f"{component}.")
        # A projection has no bias, nor a place for one.
        for kind in (("weight",) if path.endswith("text_projection") else ("weight", "bias"))
    ]


def _plain(component: str, name: str) -> str:
    return name.removeprefix("text_model.") if component == "text_encoder" else name


def _files(checkpoint: Checkpoint, component: str) -> list[Path]:
    stem = f"{component}/{_WEIGHTS[component]}"

    def at(name: str) -> Path | None:
        try:
            path = local_path(checkpoint.location, checkpoint.revision, name)
        except OSError:
            return None
        return path if path.is_file() else None

    for variant in ("", ".fp16"):
        if single := at(f"{stem}{variant}.safetensors"):
            return [single]
        if index := at(f"{stem}.safetensors.index{variant}.json"):
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            shards = [at(f"{component}/{name}") for name in names]
            return [shard for shard in shards if shard is not None]
    raise BaseModelUnavailable(f"{checkpoint.location} has no {stem}.safetensors")


def _same_shapes(
    before: Mapping[str, _Stored], after: Mapping[str, _Stored], component: str
) -> None:
    wrong = [f"{name} is in one alone" for name in sorted(before.keys() ^ after.keys())]
    wrong += [
        f"{name} is {before[name].shape} and {after[name].shape}"
        for name in sorted(before.keys() & after.keys())
        if before[name].shape != after[name].shape
    ]
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointsDiffer(
            f"the {component}s are not of one architecture: {'; '.join(wrong[:5])}{more}"
        )


def _of_architecture(
    found: Mapping[str, _Stored], architecture: Architecture, component: str
) -> None:
    shapes = {
        canonical_path(component, name.removesuffix(".weight")): stored.shape
        for name, stored in found.items()
        if name.endswith(".weight")
    }
    wrong = [
        f"{path} is {shapes.get(path, 'missing')}, not {weight}"
        for path, weight in architecture.weights.items()
        if path.startswith(f"{component}.") and shapes.get(path) != weight
    ]
    if wrong:
        raise CheckpointsDiffer(
            f"the {component} is not {architecture.title}'s: {len(wrong)} weights are of another "
            f"shape, such as {wrong[0]}"
        )
