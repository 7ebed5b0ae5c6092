"""A LoRA of a lower rank that changes the base almost as before."""

from dataclasses import replace

import torch

from app.lora_format.architectures import Architecture
from worker.ml.lora_files.modules import AdapterModule, Lora, LoraModule
from worker.ml.lora_files.tools import metadata
from worker.ml.lora_files.tools.files import rounded
from worker.ml.lora_files.tools.low_rank import (
    RankChoice,
    decompose,
    distance,
    low_rank_module,
    norm_of,
)
from worker.ml.lora_files.tools.report import ModuleOutcome, Tell, ToolReport, tell_nobody


def resize(
    lora: Lora,
    architecture: Architecture,
    choice: RankChoice,
    dtype: torch.dtype = torch.float16,
    tell: Tell = tell_nobody,
) -> tuple[Lora, ToolReport]:
    """Cut every module's ΔW down to its largest singular values; LoHa and LoKr become LoRA.

    A pair that has no more than the rank wanted stays as it is. DoRA keeps its magnitudes, which
    are lengths of the rows (or columns) of the whole weight: after a resize the weight has exactly
    the lengths it had, and only its directions are off, by the part of ΔW that was cut. The errors
    told are those of ΔW.

    Args:
        choice: the rank, or the share of ‖ΔW‖_F that each module must keep.
        dtype: the result is rounded to it, and the errors told are those of the rounded matrices.
        tell: called before each module.

    Raises:
        ValueError: see `RankChoice`.
    """
    modules: dict[str, AdapterModule] = {}
    outcomes: dict[str, ModuleOutcome] = {}
    for number, (path, module) in enumerate(sorted(lora.modules.items())):
        tell(number, len(lora.modules))
        small = _resized(module, architecture.weights[path], choice, dtype)
        modules[path] = small
        outcomes[path] = ModuleOutcome(small.rank, norm_of(module), distance(module, small))
    report = ToolReport(outcomes)
    result = Lora(modules, {}, lora.embeddings, lora.trigger)
    words = metadata.of_resized(lora.metadata, result, _done(choice, report))
    return replace(result, metadata=words), report


def _resized(
    module: AdapterModule, weight: tuple[int, ...], choice: RankChoice, dtype: torch.dtype
) -> AdapterModule:
    small = isinstance(module, LoraModule) and module.mid is None and module.rank <= choice.rank
    if small and choice.keep is None:
        return rounded(module, dtype)
    singular = decompose(module)
    rank = choice.of(singular.values)
    return low_rank_module(singular, rank, weight, dtype, module.dora_scale)


def _done(choice: RankChoice, report: ToolReport) -> str:
    wanted = f"rank {choice.rank}"
    if choice.keep is not None:
        wanted = f"{choice.keep:g} of each change's norm, at most {wanted}"
    return f"resized to {wanted}, with an error of {report.error:.3g}"
