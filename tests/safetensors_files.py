"""Safetensors files made byte by byte, sound or not, of any size, without a tensor library."""

import json
import math
from collections.abc import Mapping
from typing import Any

from app.lora_format.architectures import architectures
from app.lora_format.header import ALPHA_ITEM_BYTES

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
# A few bytes that are a finite number, not zero, in every dtype.
FILL = {"F16": b"\x00\x38", "BF16": b"\x00\x3f", "F32": b"\x00\x00\x00\x3f"}
SDXL_KEY = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
EMOJI_KEY = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k"


def framed(header: Any, data: bytes = b"") -> bytes:
    """A file of a header (JSON, or bytes as they are) and data."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def header_of(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The header of tensors that lie one after another."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    position = 0
    for name, (dtype, shape) in tensors.items():
        end = position + math.prod(shape) * ALPHA_ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    return header


def sound(
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    values: Mapping[str, bytes] | None = None,
) -> bytes:
    """A file whose every value is 0.5 where its dtype is in FILL, else zero, but for `values`."""
    data = b"".join(
        (values or {}).get(name)
        or FILL.get(dtype, bytes(ALPHA_ITEM_BYTES[dtype])) * math.prod(shape)
        for name, (dtype, shape) in tensors.items()
    )
    return framed(header_of(tensors, metadata), data)


def pair(
    name: str, inputs: int, outputs: int, rank: int = 4, dtype: str = "F16", alpha: bool = True
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """A linear's LoRA in kohya's layout."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        f"{name}.lora_down.weight": (dtype, (rank, inputs)),
        f"{name}.lora_up.weight": (dtype, (outputs, rank)),
    }
    return tensors | ({f"{name}.alpha": ("F32", ())} if alpha else {})


def peft_pair(name: str, inputs: int, outputs: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The same in diffusers' layout."""
    return {
        f"{name}.lora_A.weight": ("F16", (4, inputs)),
        f"{name}.lora_B.weight": ("F16", (outputs, 4)),
    }


def whole(architecture: str, rank: int = 1) -> dict[str, tuple[str, tuple[int, ...]]]:
    """A LoRA of every linear of a base model, by canonical path."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path, weight in architectures()[architecture].weights.items():
        if len(weight) == 2:
            tensors[f"{path}.lora_A.weight"] = ("F16", (rank, weight[1]))
            tensors[f"{path}.lora_B.weight"] = ("F16", (weight[0], rank))
    return tensors
