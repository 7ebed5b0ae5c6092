"""Write a LoRA to a file: in kohya's layout, which web UIs load, in diffusers' or in PEFT's."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from app.lora_format.errors import LoraNotFinite
from app.lora_format.names import UnetShape
from worker.ml.lora_files.layouts import (
    WrittenLayout,
    diffusers_tensors,
    kohya_tensors,
    peft_tensors,
)
from worker.ml.lora_files.modules import Lora

# sd-scripts' first kind of hash reads this window of a file and keeps eight digits.
_LEGACY_WINDOW = slice(0x100000, 0x110000)


def write_lora(
    path: Path,
    lora: Lora,
    shape: UnetShape,
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float16,
    layout: WrittenLayout = "kohya",
) -> dict[str, str]:
    """Write a file that appears only when it is whole and on the disk.

    In the `peft` layout `adapter_config.json` comes beside it, without which PEFT reads nothing;
    PEFT wants the two in a folder of their own, the file named `adapter_model.safetensors`.

    Args:
        shape: of the base's UNet, for kohya's names.
        metadata: without the hashes, which are added here.
        dtype: of the matrices; magnitudes and token vectors are float32.

    Returns:
        The metadata as written.

    Raises:
        LoraLayoutUnsupported: the layout cannot express the LoRA.
        LoraNotFinite: a value is NaN, infinite, or too large for `dtype`. In either case nothing
            is written.
    """
    more: dict[str, str] = {}
    config: dict[str, Any] = {}
    if layout == "kohya":
        tensors = kohya_tensors(lora, shape, dtype)
    elif layout == "diffusers":
        tensors, more = diffusers_tensors(lora, dtype)
    else:
        tensors, config = peft_tensors(lora, dtype)
        # The file's own metadata is "format: pt" in PEFT; its readers look for no more.
        more = {"format": "pt"}
    _check_finite(tensors)
    if layout == "peft":
        words = json.dumps(config, indent=2, sort_keys=True)
        _replace(path.with_name("adapter_config.json"), words.encode())
    complete = {**metadata, **more}
    complete |= model_hashes(tensors, complete)
    _replace(path, serialise(tensors, complete))
    return complete


def serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file; the same tensors and words always give the same bytes.

    The library writes metadata in an order that changes from process to process, so the header is
    written here, with the metadata sorted.
    """
    plain = save(dict(tensors))
    data_at = 8 + int.from_bytes(plain[:8], "little")
    entries = json.loads(plain[8:data_at])
    # Letters beyond ASCII as they are, as the library has them: the hashes depend on its length.
    header = json.dumps(
        {"__metadata__": dict(sorted(metadata.items())), **entries},
        separators=(",", ":"),
        ensure_ascii=False,
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


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise LoraNotFinite(f"{name} would hold NaN or infinity as {tensor.dtype}")


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # The name is on the disk only when the folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
