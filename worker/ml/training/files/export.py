"""A checkpoint's file: kohya layout with the metadata other programs read, proven by reading it."""

from dataclasses import dataclass, fields, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch

from app.lora_format.index import LoraIndex
from app.lora_format.names import UnetShape
from app.trainings.arithmetic import StepPlan
from worker.ml.lora_files.modules import AdapterModule, Lora
from worker.ml.lora_files.read import read_lora
from worker.ml.lora_files.write import write_lora
from worker.ml.training.errors import ExportMismatch
from worker.ml.training.files.file_metadata import file_metadata
from worker.ml.training.spec import TrainingSpec

# Of half precision: how far rounding moves a number, relative to it, with a tenth to spare, and
# the size below which that holds no more.
_ROUNDING = 1.1 * 2.0**-11
_SMALLEST_NORMAL = 2.0**-14


@dataclass(frozen=True)
class ExportedFile:
    """A checkpoint on disk."""

    path: Path
    sha256: str
    bytes: int
    metadata: dict[str, str]


def export_checkpoint(
    path: Path,
    lora: Lora,
    spec: TrainingSpec,
    shape: UnetShape,
    index: LoraIndex,
    *,
    prediction: str,
    step: int,
    epoch: int,
    steps: StepPlan,
) -> ExportedFile:
    """Write a checkpoint in half precision, read it back, and compare ΔW of every module.

    Raises:
        ExportMismatch: what was read is not what was trained.
    """
    metadata = file_metadata(spec, prediction=prediction, step=step, epoch=epoch, steps=steps)
    written = write_lora(path, lora, shape, metadata, torch.float16)
    _check(path, lora, index)
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    return ExportedFile(path, digest, path.stat().st_size, written)


def export_layouts(file: ExportedFile, lora: Lora, spec: TrainingSpec, shape: UnetShape) -> None:
    """Write the same LoRA in the other layouts that the spec asks for, beside a kohya file.

    `00000120.diffusers.safetensors`; PEFT's in a folder of its own, `00000120.peft/`, with its
    configuration, as PEFT reads it.
    """
    for layout in spec.also_layouts:
        path = file.path.with_name(f"{file.path.stem}.{layout}.safetensors")
        if layout == "peft":
            folder = file.path.with_name(f"{file.path.stem}.peft")
            folder.mkdir(exist_ok=True)
            path = folder / "adapter_model.safetensors"
        write_lora(path, lora, shape, file.metadata, torch.float16, layout)


def _check(path: Path, trained: Lora, index: LoraIndex) -> None:
    stored, unmatched = read_lora(path, index)
    if unmatched or stored.modules.keys() != trained.modules.keys():
        lost = sorted(trained.modules.keys() - stored.modules.keys())[:3]
        raise ExportMismatch(f"{path.name} reads back with other modules: {lost or unmatched[:3]}")
    for name, module in trained.modules.items():
        found = stored.modules[name]
        wrong = (found.delta() - module.delta()).abs() - rounding_bound(module)
        # Written so that NaN fails too.
        if not bool((wrong <= 0).all()):
            raise ExportMismatch(f"{name} of {path.name} reads back {float(wrong.max())} too far")
        if not _alike(module.dora_scale, found.dora_scale):
            raise ExportMismatch(f"{name} of {path.name} reads back with other magnitudes")
    for name, vectors in trained.embeddings.items():
        if not _alike(vectors, stored.embeddings.get(name)):
            raise ExportMismatch(f"{path.name} reads back with other vectors of {name}")


def rounding_bound(module: AdapterModule) -> torch.Tensor:
    """How far each entry of ΔW may be off when its matrices are rounded to half precision.

    Each rounding moves a number by at most 2⁻¹¹ of its size (of 2⁻¹⁴ at least), so a product of n
    matrices by n times that of the product of their sizes; a little more for the second order.
    """
    sizes: dict[str, Any] = {
        each.name: tensor.float().abs().clamp(min=_SMALLEST_NORMAL)
        for each in fields(module)  # type: ignore[arg-type]
        if isinstance(tensor := getattr(module, each.name), torch.Tensor)
        and each.name != "dora_scale"
    }
    largest: AdapterModule = replace(module, **sizes)  # type: ignore[type-var]
    return len(sizes) * _ROUNDING * largest.delta()


def _alike(trained: torch.Tensor | None, stored: torch.Tensor | None) -> bool:
    if trained is None or stored is None:
        return trained is stored
    wanted, found = trained.float().flatten(), stored.float().flatten()
    if wanted.shape != found.shape:
        return False
    sizes = wanted.abs().clamp(min=_SMALLEST_NORMAL)
    return bool(((wanted - found).abs() <= _ROUNDING * sizes).all())
