"""A header is believed only when everything it says fits the file and the limits."""

import json
from pathlib import Path

import pytest

from app.lora_format.check import check_file
from app.lora_format.errors import LoraFileError, LoraFileInvalid
from app.lora_format.header import HeaderLimits, read_header
from tests.safetensors_files import framed
from tests.unsound_loras import GOOD, GOOD_TENSORS, cases

CASES = cases()


@pytest.mark.parametrize("case", CASES)
def test_an_unsound_file_is_refused_in_words(case: str, tmp_path: Path) -> None:
    data, code, words = CASES[case]
    path = tmp_path / "lora.safetensors"
    path.write_bytes(data)
    with pytest.raises(LoraFileError) as refused:
        check_file(path)
    assert refused.value.code == code
    assert words in str(refused.value)


def test_a_sound_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(GOOD)
    header = read_header(path)
    assert header.tensors == GOOD_TENSORS
    assert header.metadata == {"ss_network_dim": "4", "modelspec.title": "good"}
    assert header.data_at == 8 + int.from_bytes(GOOD[:8], "little")
    ends = [end for _, end in header.spans.values()]
    assert [begin for begin, _ in header.spans.values()] == [0, *ends[:-1]]
    assert ends[-1] == len(GOOD) - header.data_at


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (HeaderLimits(file_bytes=1000), f"{len(GOOD)} bytes; the limit is 1000"),
        (HeaderLimits(header_bytes=100), "bytes; the limit is 100"),
        (HeaderLimits(header_values=20), "more values than the limit, 20"),
        (HeaderLimits(tensors=2), "3 tensors; 1 to 2 allowed"),
        (HeaderLimits(name_chars=30), "characters; the limit is 30"),
    ],
)
def test_each_limit_is_the_callers(limits: HeaderLimits, words: str, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(GOOD)
    with pytest.raises(LoraFileInvalid, match=words):
        read_header(path, limits)


def test_commas_and_brackets_in_words_are_no_values(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    words = json.dumps({"tags": [[], {}, '"', "\\"] * 1000})
    path = tmp_path / "lora.safetensors"
    path.write_bytes(framed({"__metadata__": {"ss_x": words}, "a": entry}, bytes(8)))
    assert read_header(path, HeaderLimits(header_values=20)).metadata == {"ss_x": words}
