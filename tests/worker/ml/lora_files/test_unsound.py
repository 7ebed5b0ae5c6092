"""The worker's reader refuses what the API refuses, and reads whatever the API lets pass."""

from pathlib import Path

import pytest

from app.lora_format.check import check_file
from app.lora_format.errors import LoraFileError
from app.lora_format.index import LoraIndex
from tests.unsound_loras import GOOD, cases, mutations
from worker.ml.base_models.device import choose_policy
from worker.ml.base_models.load import load_base_model
from worker.ml.lora_files.read import read_lora
from worker.ml.lora_files.targets import index_of

EMOJI = Path(__file__).parents[4] / "assets" / "emoji-64"
# The reader lists names that it does not know, and leaves shapes to those who know the weights.
LEFT_TO_OTHERS = {"lora_keys_unknown", "lora_shape_mismatch", "lora_incompatible"}


@pytest.fixture(scope="module")
def index() -> LoraIndex:
    parts = ["unet", "text_encoder", "text_encoder_2"]
    return index_of(load_base_model(str(EMOJI), None, choose_policy("cpu"), parts).networks())


def outcome(path, index):
    """None when it can be used as a whole, else the code of the refusal."""
    try:
        _, unmatched = read_lora(path, index)
    except LoraFileError as error:
        return error.code
    return "lora_keys_unknown" if unmatched else None


def checked(path):
    try:
        check_file(path, architecture="emoji-64")
    except LoraFileError as error:
        return error.code
    return None


def test_every_unsound_file_is_refused_by_both(index, tmp_path):
    path = tmp_path / "lora.safetensors"
    wrong = {}
    for name, (data, code, _) in cases().items():
        path.write_bytes(data)
        found = outcome(path, index)
        if found != code and name != "another width":
            wrong[name] = found
    assert wrong == {}


def test_both_agree_on_mutations_of_a_sound_file(index, tmp_path):
    path = tmp_path / "lora.safetensors"
    path.write_bytes(GOOD)
    assert outcome(path, index) is None
    assert checked(path) is None
    for number, data in enumerate(mutations(seed=3, count=600)):
        path.write_bytes(data)
        read, check = outcome(path, index), checked(path)
        if check is None or read is not None:
            assert (read is None) == (check is None), (number, read, check)
        else:
            assert check in LEFT_TO_OTHERS, (number, check)
