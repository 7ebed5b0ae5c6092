"""The same LoRA in another layout."""

from collections.abc import Mapping
from pathlib import Path

import torch

from app.lora_format.architectures import Architecture
from worker.ml.lora_files.layouts import WrittenLayout
from worker.ml.lora_files.modules import Lora
from worker.ml.lora_files.tools.files import widest_dtype, write_checked
from worker.ml.lora_files.tools.report import ToolReport


def convert(
    lora: Lora,
    architecture: Architecture,
    target: Path,
    layout: WrittenLayout,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> ToolReport:
    """Write a LoRA in a layout, in the precision it came in, with the metadata it came with.

    Args:
        target: a file; in the `peft` layout a folder, or a `.zip` of what belongs in one.
        dtype: None: the narrowest that loses nothing.
        metadata: instead of the LoRA's own.

    Returns:
        How far rounding has moved each module: alphas are folded into the matrices of diffusers'
        and PEFT's layouts.

    Raises:
        LoraLayoutUnsupported: the layout cannot express the LoRA.
        LoraNotFinite: a value is too large for `dtype`.
    """
    words = dict(lora.metadata if metadata is None else metadata)
    return write_checked(target, lora, architecture, words, dtype or widest_dtype([lora]), layout)
