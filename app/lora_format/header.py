"""Check a safetensors file by its header alone, before a byte of its data is believed.

The format: 8 bytes little-endian N, N bytes of JSON {name: {dtype, shape, data_offsets}}, data.
"""

import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.lora_format.errors import LoraFileInvalid
from app.lora_format.text import has_control

# Bytes of one value, of the formats a LoRA may come in.
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
# Some programs write an alpha as the whole number it is.
ALPHA_ITEM_BYTES = ITEM_BYTES | {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
# And what whole models have beside their weights.
WITH_INTEGERS = ALPHA_ITEM_BYTES | {"BOOL": 1}
# No file has a size or an offset that eight bytes cannot count.
_MOST = 2**63
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


@dataclass(frozen=True)
class HeaderLimits:
    """Ceilings, each named in the error of a file that is over it."""

    file_bytes: int = 4 * 1024**3
    header_bytes: int = 16 * 1024**2
    tensors: int = 20_000
    # JSON's values and containers: short ones take far more memory than room in the header. A
    # tensor has up to fifteen.
    header_values: int = 700_000
    # Of a tensor's name. The longest of SDXL's layouts have about a hundred.
    name_chars: int = 500
    # Number formats that are taken, and the bytes of a number; None: those of a LoRA.
    item_bytes: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Header:
    """What a sound file says it holds.

    Attributes:
        tensors: dtype and shape by tensor name.
        metadata: the file's own words.
        data_at: bytes before the data.
        spans: where each tensor's data begins and ends in the data, by tensor name; ascending,
            without holes.
    """

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]
    data_at: int
    spans: dict[str, tuple[int, int]]


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
        if size < 8:
            raise LoraFileInvalid(f"the file has {size} bytes, too few to be a safetensors file")
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise LoraFileInvalid(
                f"the file has {size} bytes, too few for its header of {length} bytes"
            )
        if length > limits.header_bytes:
            raise LoraFileInvalid(
                f"the header has {length} bytes; the limit is {limits.header_bytes}"
            )
        raw = file.read(length)
    if _count_values(raw, limits.header_values) > limits.header_values:
        raise LoraFileInvalid(f"the header has more values than the limit, {limits.header_values}")
    try:
        # json would guess at UTF-16 and skip spaces; other readers of the format do neither.
        parsed = json.loads(raw.decode(), object_pairs_hook=_plain_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise LoraFileInvalid(f"the header is not safetensors JSON: {reason}") from error
    if not isinstance(parsed, dict) or not raw.startswith(b"{"):
        raise LoraFileInvalid("the header is not a JSON object")
    metadata = parsed.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise LoraFileInvalid("the metadata is not an object of strings")
    if not 1 <= len(parsed) <= limits.tensors:
        raise LoraFileInvalid(f"the file has {len(parsed)} tensors; 1 to {limits.tensors} allowed")
    tensors, spans = _checked(parsed, size - 8 - length, limits)
    return Header(tensors, metadata, 8 + length, spans)


def _checked(
    entries: dict[str, Any], data_bytes: int, limits: HeaderLimits
) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, tuple[int, int]]]:
    tensors = {}
    spans = []
    for name, entry in entries.items():
        if len(name) > limits.name_chars:
            raise LoraFileInvalid(
                f"a tensor's name has {len(name)} characters; the limit is {limits.name_chars}"
            )
        if has_control(name):
            raise LoraFileInvalid(f"a tensor's name has control characters: {name!r}")
        try:
            dtype, shape = entry["dtype"], entry["shape"]
            begin, end = entry["data_offsets"]
        except (TypeError, KeyError, ValueError) as error:
            raise LoraFileInvalid(f"{name}: not a tensor entry") from error
        of_lora = ALPHA_ITEM_BYTES if name.endswith(".alpha") else ITEM_BYTES
        known = limits.item_bytes or of_lora
        if not isinstance(dtype, str) or dtype not in known:
            shown = reprlib.repr(dtype)
            raise LoraFileInvalid(
                f"{name}: dtype is {shown}; it may be {', '.join(limits.item_bytes or ITEM_BYTES)}"
            )
        if not isinstance(shape, list) or len(shape) > 4:
            shown = reprlib.repr(shape)
            raise LoraFileInvalid(f"{name}: shape is {shown}; up to four sizes are allowed")
        if not all(type(n) is int and 0 <= n < _MOST for n in (*shape, begin, end)):
            raise LoraFileInvalid(
                f"{name}: a size or an offset is not a whole number from 0 to 2⁶³ - 1"
            )
        if end - begin != math.prod(shape) * known[dtype]:
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
    return tensors, {name: (begin, end) for begin, end, name in sorted(spans)}


def _count_values(raw: bytes, limit: int) -> int:
    """How many strings, and commas and brackets outside of them, there are; or over the limit."""
    signs = (b",", b"[", b"{")
    values = sum(raw.count(sign) for sign in signs)
    for strings, match in enumerate(_STRING.finditer(raw)):
        if strings > limit:
            return strings
        values += 1 - sum(match[0].count(sign) for sign in signs)
    return values


def _plain_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise ValueError("a name occurs twice")
    for name, value in pairs:
        # Halves of UTF-16's pairs are no text; this raises the ValueError that says so.
        name.encode()
        if isinstance(value, str):
            value.encode()
    return parsed


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
