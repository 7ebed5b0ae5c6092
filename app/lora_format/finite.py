"""Whether a file's numbers are numbers, read in small pieces: a few MiB whatever the file's size.

A float whose exponent's bits are all ones is infinity or NaN; F8_E4M3 has no infinity, and NaN only
where all bits but the sign are ones. The format is little-endian, whatever this machine is.
"""

from collections.abc import Container
from pathlib import Path
from typing import BinaryIO

import numpy as np

from app.lora_format.errors import LoraNotFinite
from app.lora_format.header import Header

# Integer of the same width, and the bits that are all ones in what is no finite number.
_BITS: dict[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E4M3": ("u1", 0x7F),
    "F8_E5M2": ("u1", 0x7C),
}
# A multiple of every item's bytes.
CHUNK_BYTES = 1024 * 1024


def check_finite(path: Path, header: Header, ignored: Container[str] = ()) -> None:
    """Look at every number of a file whose header was found sound.

    Args:
        ignored: tensors whose values do not count.

    Raises:
        LoraNotFinite: the first tensor, as they lie in the file, that holds NaN or infinity.
    """
    with path.open("rb") as file:
        file.seek(header.data_at)
        # One after another: the header says that there are no holes.
        for name, (begin, end) in header.spans.items():
            dtype, shape = header.tensors[name]
            # Whole numbers are always finite.
            if dtype not in _BITS or name in ignored:
                file.seek(end - begin, 1)
            elif (place := _first_not_finite(file, end - begin, dtype)) is not None:
                raise LoraNotFinite(
                    f"{name} holds NaN or infinity, at value {place} of its {dtype} {shape}"
                )


def _first_not_finite(file: BinaryIO, size: int, dtype: str) -> int | None:
    """Which value, counted from 0, of the next `size` bytes is none."""
    kind, ones = _BITS[dtype]
    before = 0
    while size > 0:
        chunk = file.read(min(size, CHUNK_BYTES))
        bits = np.frombuffer(chunk, dtype=kind)
        wrong = (bits & bits.dtype.type(ones)) == ones
        if wrong.any():
            return before + int(wrong.argmax())
        before += len(bits)
        size -= len(chunk)
    return None


def read_number(path: Path, header: Header, name: str) -> float:
    """The one value of a tensor such as an alpha.

    Raises:
        LoraNotFinite: it is NaN or infinity.
    """
    dtype, _ = header.tensors[name]
    begin, end = header.spans[name]
    with path.open("rb") as file:
        file.seek(header.data_at + begin)
        raw = file.read(end - begin)
    value = _decode(raw, dtype)
    if not np.isfinite(value):
        raise LoraNotFinite(f"{name} is {value}")
    return value


def _decode(raw: bytes, dtype: str) -> float:
    if dtype == "BF16":
        # The upper half of a float32.
        raw, dtype = b"\0\0" + raw, "F32"
    elif dtype == "F8_E5M2":
        # The upper half of a float16.
        raw, dtype = b"\0" + raw, "F16"
    elif dtype == "F8_E4M3":
        return _e4m3(raw[0])
    kind = "u1" if dtype == "U8" else f"<{dtype[0].lower()}{int(dtype[1:]) // 8}"
    return float(np.frombuffer(raw, dtype=kind)[0])


def _e4m3(bits: int) -> float:
    """Sign, four bits of exponent (bias 7), three of mantissa (Micikevicius et al. 2022)."""
    sign = -1.0 if bits & 0x80 else 1.0
    exponent, mantissa = bits >> 3 & 0xF, bits & 7
    if bits & 0x7F == 0x7F:
        return float("nan")
    if exponent == 0:
        return sign * mantissa / 8 * 2.0**-6
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)
