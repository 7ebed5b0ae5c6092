"""A state brings everything back, and one that is not whole is passed over."""

import json

import pytest
import torch

from worker.ml.training.state import (
    KEPT,
    Measured,
    Position,
    load_state,
    newest_state,
    save_state,
)


def _position(step):
    measured = {1: Measured(0.5, 0.6, 0.01), 2: Measured()}
    return Position(step, "spec", measured, first_loss=0.25, extra={"d": 1 / 3})


def _tensors(step):
    generator = torch.Generator().manual_seed(step)
    return {
        "value.a": torch.randn(4, 8, generator=generator),
        "moment.a.step": torch.tensor(float(step)),
        "codes": torch.arange(8, dtype=torch.uint8),
    }


@pytest.fixture
def saved(tmp_path):
    """Three states; the first is gone by then."""
    for step in (1, 2, 3):
        save_state(tmp_path / "states", _position(step), _tensors(step))
    return tmp_path / "states"


def test_a_state_comes_back_bit_for_bit(saved):
    path, notes = newest_state(saved, "spec")
    assert notes == []
    position, tensors = load_state(path)
    assert position == _position(3)
    assert tensors.keys() == _tensors(3).keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in _tensors(3).items())


def test_what_a_killed_run_left_half_written_is_cleared_away(saved):
    (saved / ".state-00000004.99").mkdir()
    (saved / ".state-00000004.99" / "tensors.safetensors").write_bytes(b"half")
    assert newest_state(saved, "spec")[0] == saved / "state-00000003"
    save_state(saved, _position(4), _tensors(4))
    assert sorted(path.name for path in saved.iterdir()) == ["state-00000003", "state-00000004"]


def test_checkpoints_rank_by_what_the_base_finds_hard_too():
    assert Measured(0.5, 1.0).rank < Measured(0.4, 0.5).rank
    assert Measured(0.5).rank == 0.5
    assert Measured().rank is None


def test_only_the_newest_are_kept(saved):
    folder = saved
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["state-00000002", "state-00000003"]
    assert len(names) == KEPT


@pytest.mark.parametrize("file", ["tensors.safetensors", "position.json"])
def test_one_wrong_bit_gives_way_to_the_state_before(saved, file):
    folder = saved
    path = folder / "state-00000003" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found, notes = newest_state(folder, "spec")
    assert found == folder / "state-00000002"
    assert notes == [f"state-00000003 is damaged ({file}); an older one is used"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"tensors.safetensors": "x"}', "\x00"])
def test_a_manifest_that_is_not_whole_gives_way_to_the_state_before(saved, text):
    folder = saved
    (folder / "state-00000003" / "manifest.json").write_text(text)
    found, notes = newest_state(folder, "spec")
    assert found == folder / "state-00000002"
    assert "state-00000003 cannot be read" in notes[0]


def test_a_missing_file_gives_way_to_the_state_before(saved):
    folder = saved
    (folder / "state-00000003" / "tensors.safetensors").unlink()
    assert newest_state(folder, "spec")[0] == folder / "state-00000002"


def test_a_state_that_was_never_finished_is_not_seen(saved):
    folder = saved
    (folder / "state-00000003").rename(folder / ".state-00000003.123")
    assert newest_state(folder, "spec")[0] == folder / "state-00000002"


def test_there_may_be_none(tmp_path, saved):
    assert newest_state(tmp_path / "nothing", "spec") == (None, [])
    found, notes = newest_state(saved, "another spec")
    assert found is None
    assert len(notes) == 2


def test_nothing_in_a_state_is_pickled(saved):
    folder = saved
    files = sorted(path.name for path in (folder / "state-00000003").iterdir())
    assert files == ["manifest.json", "position.json", "tensors.safetensors"]
    assert json.loads((folder / "state-00000003" / "position.json").read_text())["step"] == 3
