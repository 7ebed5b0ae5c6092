"""A state brings everything back, and one that is not whole is passed over."""

import json

import pytest
import torch
from torch import nn

from worker.ml.training.state import KEPT, Position, load_state, newest_state, save_state


def _setup(seed=0):
    generator = torch.Generator().manual_seed(seed)
    parameters = {
        "a.down": nn.Parameter(torch.randn(4, 8, generator=generator)),
        "a.up": nn.Parameter(torch.randn(8, 4, generator=generator)),
    }
    return parameters, torch.optim.AdamW(list(parameters.values()), lr=0.01, fused=True)


def _step(parameters, optimizer, number):
    generator = torch.Generator().manual_seed(number)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


@pytest.fixture
def saved(tmp_path):
    """Three states; the first is gone by then."""
    parameters, optimizer = _setup()
    for step in (1, 2, 3):
        _step(parameters, optimizer, step)
        position = Position(step, "spec", {1: 0.5, 2: None}, first_loss=0.25)
        save_state(tmp_path / "states", position, parameters, optimizer)
    return tmp_path / "states", parameters, optimizer


def test_training_goes_on_bit_for_bit(saved):
    folder, parameters, optimizer = saved
    path, notes = newest_state(folder, "spec")
    assert notes == []
    others, other_optimizer = _setup(seed=9)
    assert load_state(path, others, other_optimizer) == Position(
        3, "spec", {1: 0.5, 2: None}, first_loss=0.25
    )
    for number in (4, 5):
        _step(parameters, optimizer, number)
        _step(others, other_optimizer, number)
    assert all(torch.equal(parameters[name], others[name]) for name in parameters)


def test_only_the_newest_are_kept(saved):
    folder, _, _ = saved
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["state-00000002", "state-00000003"]
    assert len(names) == KEPT


@pytest.mark.parametrize("file", ["tensors.safetensors", "position.json"])
def test_one_wrong_bit_gives_way_to_the_state_before(saved, file):
    folder, _, _ = saved
    path = folder / "state-00000003" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found, notes = newest_state(folder, "spec")
    assert found == folder / "state-00000002"
    assert notes == [f"state-00000003 is damaged ({file}); an older one is used"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"tensors.safetensors": "x"}', "\x00"])
def test_a_manifest_that_is_not_whole_gives_way_to_the_state_before(saved, text):
    folder, _, _ = saved
    (folder / "state-00000003" / "manifest.json").write_text(text)
    found, notes = newest_state(folder, "spec")
    assert found == folder / "state-00000002"
    assert "state-00000003 cannot be read" in notes[0]


def test_a_missing_file_gives_way_to_the_state_before(saved):
    folder, _, _ = saved
    (folder / "state-00000003" / "tensors.safetensors").unlink()
    assert newest_state(folder, "spec")[0] == folder / "state-00000002"


def test_a_state_that_was_never_finished_is_not_seen(saved):
    folder, _, _ = saved
    (folder / "state-00000003").rename(folder / ".state-00000003.123")
    assert newest_state(folder, "spec")[0] == folder / "state-00000002"


def test_there_may_be_none(tmp_path, saved):
    assert newest_state(tmp_path / "nothing", "spec") == (None, [])
    found, notes = newest_state(saved[0], "another spec")
    assert found is None
    assert len(notes) == 2


def test_nothing_in_a_state_is_pickled(saved):
    folder, _, _ = saved
    files = sorted(path.name for path in (folder / "state-00000003").iterdir())
    assert files == ["manifest.json", "position.json", "tensors.safetensors"]
    assert json.loads((folder / "state-00000003" / "position.json").read_text())["step"] == 3
