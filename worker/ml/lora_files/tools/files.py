"""Read a LoRA whole, and write a result so that what the file says is known to be right."""

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

from app.lora_format.adapter_config import METADATA_KEY
from app.lora_format.architectures import Architecture
from app.lora_format.errors import LoraFileError, LoraKeysUnknown, LoraPairMismatch
from worker.ml.lora_files.layouts import WrittenLayout
from worker.ml.lora_files.modules import AdapterModule, Lora, with_tensors
from worker.ml.lora_files.read import read_lora
from worker.ml.lora_files.tools.low_rank import distance, norm_of
from worker.ml.lora_files.tools.metadata import without_config
from worker.ml.lora_files.tools.report import ModuleOutcome, ToolReport
from worker.ml.lora_files.write import write_lora

# PEFT reads a folder of these two.
PEFT_FILES = ("adapter_model.safetensors", "adapter_config.json")
# How far rounding may move ΔW of a pair that is written: its matrices, and a scale folded in.
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


class ResultMismatch(LoraFileError):
    """A file that was written reads back as another LoRA."""

    code = "lora_result_mismatch"


def read_whole(
    path: Path, architecture: Architecture, *, strict: bool = True
) -> tuple[Lora, list[str]]:
    """Read a file of any layout, or PEFT's folder or zip, for a base.

    Args:
        strict: refuse a file with names that the base does not have.

    Returns:
        The LoRA, and the names that fit no module, none when strict.

    Raises:
        LoraKeysUnknown: names fit no module; they are named.
        LoraPairMismatch: a module's shape is not its weight's.
        LoraFileError: as for `read_lora`.
    """
    if path.is_dir():
        path = path / PEFT_FILES[0]
    beside = {}
    if path.name == PEFT_FILES[0] and (config := path.with_name(PEFT_FILES[1])).is_file():
        # Without it a PEFT file does not say its alphas.
        beside[METADATA_KEY] = config.read_text()
    lora, unmatched = read_lora(path, architecture.index, beside=beside)
    if not lora.modules or (strict and unmatched):
        names = ", ".join(unmatched[:5])
        more = f" and {len(unmatched) - 5} more" if len(unmatched) > 5 else ""
        raise LoraKeysUnknown(
            f"{path.name}: the base has no modules for {names}{more}; is it the right base?"
        )
    for name, module in lora.modules.items():
        weight = architecture.weights[name]
        flat = (weight[0], torch.Size(weight[1:]).numel())
        if module.matrix_shape != flat:
            raise LoraPairMismatch(
                f"{path.name}: {name} changes a weight of {module.matrix_shape}; the base's is "
                f"{flat}"
            )
    return lora, list(unmatched)


def widest_dtype(loras: Sequence[Lora]) -> torch.dtype:
    """The precision that loses nothing of these matrices: float32, bfloat16 or float16."""
    found = {
        tensor.dtype
        for lora in loras
        for module in lora.modules.values()
        for tensor in module.tensors().values()
    }
    halves = {torch.float16, torch.bfloat16}
    if found <= halves and len(found) == 1:
        return found.pop()
    # What has eight bits fits into half precision, exponents of E5M2 included.
    eight = {torch.float8_e4m3fn, torch.float8_e5m2}
    return torch.float16 if found <= eight | {torch.float16} else torch.float32


def write_checked(
    path: Path,
    lora: Lora,
    architecture: Architecture,
    metadata: dict[str, str],
    dtype: torch.dtype,
    layout: WrittenLayout = "kohya",
) -> ToolReport:
    """Write a LoRA and read it back; the report tells how far rounding has moved it.

    In the `peft` layout `path` is a `.zip` of the two files, or a folder for them.

    Raises:
        LoraLayoutUnsupported: the layout cannot express it.
        LoraNotFinite: `dtype` is too small for a value.
        ResultMismatch: what is read is not what was written.
    """
    file = path
    if layout == "peft":
        folder = path.with_suffix(".peft") if path.suffix == ".zip" else path
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / PEFT_FILES[0]
    write_lora(file, lora, architecture.shape, without_config(metadata), dtype, layout)
    found = read_lora(file, architecture.index)[0]
    report = compare(lora, found)
    if report.error > _TOLERANCE[dtype] or not _same_magnitudes(lora, found):
        raise ResultMismatch(f"{path.name} reads back {report.error:.2g} away from what was made")
    if layout == "peft" and path.suffix == ".zip":
        _pack(file.parent, path)
    return report


def compare(wanted: Lora, found: Lora) -> ToolReport:
    """How far each module of `found` is from `wanted`.

    Raises:
        ResultMismatch: they do not change the same modules.
    """
    if wanted.modules.keys() != found.modules.keys():
        other = sorted(wanted.modules.keys() ^ found.modules.keys())
        raise ResultMismatch(f"{len(other)} modules are in one file alone, such as {other[0]}")
    return ToolReport(
        {
            name: ModuleOutcome(
                found.modules[name].rank, norm_of(module), distance(module, found.modules[name])
            )
            for name, module in wanted.modules.items()
        }
    )


def rounded(module: AdapterModule, dtype: torch.dtype) -> AdapterModule:
    """A module as a file in `dtype` holds it: its matrices rounded, its magnitudes whole."""
    matrices = {id(tensor) for tensor in module.tensors().values()}
    return with_tensors(
        module, lambda tensor: tensor.to(dtype) if id(tensor) in matrices else tensor
    )


def _same_magnitudes(wanted: Lora, found: Lora) -> bool:
    for name, module in wanted.modules.items():
        expected, read = module.dora_scale, found.modules[name].dora_scale
        if expected is None or read is None:
            if expected is not read:
                return False
        elif not torch.equal(expected.float().flatten(), read.float().flatten()):
            return False
    return True


def _pack(folder: Path, target: Path) -> None:
    """The same files always give the same bytes: no times, no compression."""
    partial = target.with_name(target.name + ".part")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name in PEFT_FILES:
            member = zipfile.ZipInfo(name)
            with (folder / name).open("rb") as source, archive.open(member, "w") as packed:
                shutil.copyfileobj(source, packed)
    partial.replace(target)
