"""Write a LoRA in kohya layout, which web UIs and ComfyUI load unchanged."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from worker.ml.lora_files.modules import Lora
from worker.ml.lora_files.names import UnetShape, kohya_prefix

# sd-scripts' first kind of hash reads this window of a file and keeps eight digits.
_LEGACY_WINDOW = slice(0x100000, 0x110000)


def kohya_tensors(lora: Lora, shape: UnetShape, dtype: torch.dtype) -> dict[str, Tensor]:
    """A LoRA's tensors under kohya's names; `.alpha` is a scalar."""
    tensors: dict[str, Tensor] = {}
    for path, module in sorted(lora.modules.items()):
        prefix = kohya_prefix(path, shape)
        tensors[f"{prefix}.lora_down.weight"] = module.down.to(dtype).contiguous()
        tensors[f"{prefix}.lora_up.weight"] = module.up.to(dtype).contiguous()
        tensors[f"{prefix}.alpha"] = torch.tensor(module.alpha, dtype=dtype)
    return tensors


def write_kohya(
    path: Path,
    lora: Lora,
    shape: UnetShape,
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float16,
) -> dict[str, str]:
    """Write a file that appears only when it is whole and on the disk.

    Args:
        metadata: without the hashes, which are added here.

    Returns:
        The metadata as written.
    """
    tensors = kohya_tensors(lora, shape, dtype)
    complete = {**metadata, **model_hashes(tensors, metadata)}
    # Sorted, so that the same weights and words always give the same bytes.
    data = save(tensors, metadata=dict(sorted(complete.items())))
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return complete


def model_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`sshs_model_hash` and `sshs_legacy_hash`, over the file with only its `ss_*` metadata."""
    training = {name: value for name, value in metadata.items() if name.startswith("ss_")}
    data = save(dict(tensors), metadata=dict(sorted(training.items())))
    header_bytes = 8 + int.from_bytes(data[:8], "little")
    return {
        "sshs_model_hash": hashlib.sha256(data[header_bytes:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(data[_LEGACY_WINDOW]).hexdigest()[:8],
    }
