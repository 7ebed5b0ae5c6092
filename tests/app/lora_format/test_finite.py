"""NaN and infinity are found in every number format, wherever in a file they lie."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from app.lora_format.errors import LoraNotFinite
from app.lora_format.finite import CHUNK_BYTES, check_finite, read_number
from app.lora_format.header import read_header
from tests.safetensors_files import sound
from tests.unsound_loras import NOT_FINITE


def check(path: Path) -> None:
    check_finite(path, read_header(path))


@pytest.mark.parametrize("dtype", NOT_FINITE)
def test_every_pattern_of_a_small_format_is_judged_as_it_should_be(
    dtype: str, tmp_path: Path
) -> None:
    """All 2⁸ or 2¹⁶ of them; of the wider formats, those that are special and their neighbours."""
    kinds = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
    }
    width = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}.get(dtype, 1)
    chance = random.Random(0)
    if width == 1:
        patterns = [bytes([n]) for n in range(256)]
    else:
        special = [value for values in NOT_FINITE.values() for value in values]
        patterns = [(value * 8)[-width:] for value in special]
        patterns += [chance.randbytes(width) for _ in range(150)]
        patterns += [chance.randbytes(width - 2) + b"\xf0\x7f" for _ in range(50)]
        patterns += [chance.randbytes(width - 2) + b"\xef\x7f" for _ in range(50)]
        patterns += [chance.randbytes(width - 2) + b"\x80\x7f" for _ in range(50)]
        patterns += [chance.randbytes(width - 1) + b"\x7b" for _ in range(50)]
        patterns += [chance.randbytes(width - 1) + b"\x7c" for _ in range(50)]
    path = tmp_path / "a.safetensors"
    judged = set()
    for pattern in patterns:
        path.write_bytes(sound({"a": (dtype, ())}, values={"a": pattern}))
        header = read_header(path)
        value = torch.frombuffer(bytearray(pattern), dtype=kinds[dtype]).double().item()
        try:
            check_finite(path, header)
            finite = True
            assert read_number(path, header, "a") == value
        except LoraNotFinite:
            finite = False
        assert finite == bool(np.isfinite(value)), pattern.hex()
        judged.add(finite)
    assert judged == {True, False}


def test_the_first_wrong_value_is_named_across_chunks(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    count = CHUNK_BYTES // 2 + 5
    for place in (0, CHUNK_BYTES // 2 - 1, CHUNK_BYTES // 2, count - 1):
        data = bytearray(count * 2)
        data[2 * place : 2 * place + 2] = b"\x00\x7c"
        tensors = {"before": ("F32", (3,)), "wrong": ("F16", (count,)), "after": ("F16", (2,))}
        path.write_bytes(sound(tensors, values={"wrong": bytes(data)}))
        with pytest.raises(
            LoraNotFinite, match=rf"wrong .* at value {place} of its F16 \({count},"
        ):
            check(path)


def test_tensors_are_looked_at_as_they_lie_whatever_their_order_in_the_header(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.safetensors"
    alpha = ("I64", ())
    tensors = {"x.alpha": alpha, "a": ("F16", (2,)), "y.alpha": alpha, "b": ("F32", (1,))}
    # As a float64 it would be NaN.
    path.write_bytes(sound(tensors, values={"x.alpha": b"\xff" * 8, "y.alpha": b"\xff" * 8}))
    check(path)
    path.write_bytes(sound(tensors, values={"b": b"\0\0\x80\x7f"}))
    with pytest.raises(LoraNotFinite, match=r"^b holds"):
        check(path)
