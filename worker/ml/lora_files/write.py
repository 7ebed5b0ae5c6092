"""Write a LoRA in kohya layout, which web UIs and ComfyUI load unchanged."""

import hashlib
import json
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
    data = serialise(tensors, complete)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)
    return complete


def serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file; the same tensors and words always give the same bytes.

    The library writes metadata in an order that changes from process to process, so the header is
    written here, with the metadata sorted.
    """
    plain = save(dict(tensors))
    data_at = 8 + int.from_bytes(plain[:8], "little")
    entries = json.loads(plain[8:data_at])
    header = json.dumps(
        {"__metadata__": dict(sorted(metadata.items())), **entries}, separators=(",", ":")
    ).encode()
    # The data begins at a multiple of eight bytes.
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + plain[data_at:]


def model_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`sshs_model_hash` and `sshs_legacy_hash`, over the file with only its `ss_*` metadata."""
    training = {name: value for name, value in metadata.items() if name.startswith("ss_")}
    data = serialise(tensors, training)
    header_bytes = 8 + int.from_bytes(data[:8], "little")
    return {
        "sshs_model_hash": hashlib.sha256(data[header_bytes:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(data[_LEGACY_WINDOW]).hexdigest()[:8],
    }


def _sync_folder(folder: Path) -> None:
    # The name is on the disk only when the folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
