"""A run that is killed again and again makes the same bytes as one that never was."""

import hashlib
import random
import time

import pytest

KILLS = 10
PARAMS = {
    "rank": 8,
    "epochs": 8,
    "num_repeats": 4,
    "save_every_n_epochs": 2,
    "noise_offset": 0.05,
    "neuron_dropout": 0.1,
    "tag_dropout_rate": 0.1,
    "flip_augment": True,
    "ema_decay": 0.95,
}
# A state after every step: so a kill often falls into the writing of one.
OFTEN = ("--state-every-seconds", "0")


def _files(output):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((output / "checkpoints").glob("*.safetensors"))
    }


@pytest.fixture(scope="module")
def whole(write_spec, start, tmp_path_factory):
    spec = write_spec(PARAMS)
    output = tmp_path_factory.mktemp("whole")
    program = start(spec, output, *OFTEN)
    assert program.end() == 0
    return spec, output, program


def test_killed_ten_times_at_any_moment_and_inside_writes_it_makes_the_same_bytes(
    whole, start, tmp_path
):
    spec, expected, uninterrupted = whole
    output = tmp_path / "killed"
    chance = random.Random(20)
    told = {}
    inside_a_write = 0
    for kill in range(KILLS):
        program = start(spec, output, "--resume", *OFTEN)
        if kill % 2:
            inside_a_write += _kill_inside_a_write(program, output / "states")
        else:
            _kill_after_some_events(program, chance.randrange(1, 25))
        program.until("")
        assert program.end() == -9
        told |= _added(told, program)
    last = start(spec, output, "--resume", *OFTEN)
    assert last.end() == 0
    told |= _added(told, last)
    assert inside_a_write >= 2
    assert _files(output) == _files(expected)
    assert len(_files(output)) == 4
    assert told == uninterrupted.rows()
    results = [program.of("result")[0] for program in (last, uninterrupted)]
    assert results[0] == results[1]


def _added(told, program):
    """Rows with what earlier runs told of the same steps, which must be the same."""
    found = {}
    for step, row in program.rows().items():
        before = told.get(step, {})
        assert all(before[name] == row[name] for name in before.keys() & row.keys())
        found[step] = {**before, **row}
    return found


def _kill_after_some_events(program, count):
    """Somewhere in the run, or before it has begun."""
    for _ in range(count):
        line = program.process.stdout.readline()
        if not line:
            break
        program.hear(line)
    program.process.kill()


def _kill_inside_a_write(program, folder):
    """When a state's temporary folder is seen, which is gone when it is whole."""
    program.until("state")
    ends = time.monotonic() + 30
    while program.process.poll() is None and time.monotonic() < ends:
        if any(folder.glob(".state-*")):
            program.process.kill()
            program.process.wait()
            return any(folder.glob(".state-*"))
    return False
