"""Check a safetensors file by its header alone, before a byte of its data is believed.

The format: 8 bytes little-endian N, N bytes of JSON {name: {dtype, shape, data_offsets}}, data.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.lora_format.errors import LoraFileInvalid

# Bytes of one value, of the formats a LoRA may come in.
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}


@dataclass(frozen=True)
class HeaderLimits:
    """Ceilings, each named in the error of a file that is over it."""

    file_bytes: int = 4 * 1024**3
    header_bytes: int = 16 * 1024**2
    tensors: int = 20_000


@dataclass(frozen=True)
class Header:
    """What a sound file says it holds: dtype and shape by tensor name, and its metadata."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]


def read_header(path: Path, limits: HeaderLimits | None = None) -> Header:
    """Read and check the header.

    Raises:
        LoraFileInvalid: the file is truncated, over a limit, not safetensors, of a number format
            that no LoRA has, or its offsets overlap, leave holes or end outside the file.
        OSError: it cannot be opened.
    """
    limits = limits or HeaderLimits()
    size = path.stat().st_size
    if size > limits.file_bytes:
        raise LoraFileInvalid(f"the file has {size} bytes; the limit is {limits.file_bytes}")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise LoraFileInvalid(f"the file has {size} bytes, too few for its header")
        if length > limits.header_bytes:
            raise LoraFileInvalid(
                f"the header has {length} bytes; the limit is {limits.header_bytes}"
            )
        raw = file.read(length)
    try:
        parsed = json.loads(raw, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise LoraFileInvalid("the header is not safetensors JSON") from error
    if not isinstance(parsed, dict):
        raise LoraFileInvalid("the header is not a JSON object")
    metadata = parsed.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise LoraFileInvalid("the metadata is not an object of strings")
    if not 1 <= len(parsed) <= limits.tensors:
        raise LoraFileInvalid(f"the file has {len(parsed)} tensors; 1 to {limits.tensors} allowed")
    return Header(_checked(parsed, size - 8 - length), metadata)


def _checked(entries: dict[str, Any], data_bytes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    tensors = {}
    spans = []
    for name, entry in entries.items():
        try:
            dtype, shape = entry["dtype"], entry["shape"]
            begin, end = entry["data_offsets"]
        except (TypeError, KeyError, ValueError) as error:
            raise LoraFileInvalid(f"{name}: not a tensor entry") from error
        if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
            known = ", ".join(_ITEM_BYTES)
            raise LoraFileInvalid(f"{name}: dtype is {dtype!r}; a LoRA may have {known}")
        if not isinstance(shape, list) or len(shape) > 4:
            raise LoraFileInvalid(f"{name}: shape is {shape!r}; up to four sizes are allowed")
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise LoraFileInvalid(f"{name}: a size or an offset is not a whole number")
        if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
            raise LoraFileInvalid(
                f"{name}: {end - begin} bytes for {dtype} of shape {shape}, which do not fit"
            )
        tensors[name] = (dtype, tuple(shape))
        spans.append((begin, end, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise LoraFileInvalid(f"{name}: its data overlaps another's or leaves a hole")
        position = end
    if position != data_bytes:
        raise LoraFileInvalid(f"the file holds {data_bytes} bytes of data; {position} are named")
    return tensors


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise ValueError("a name occurs twice")
    return parsed
