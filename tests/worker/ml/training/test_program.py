"""The trainer as whoever starts it sees it: events, exit codes, stops and what survives them."""

import hashlib
import json
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

# Three steps an epoch; checkpoints after steps 6 and 12.
STEPS = 12
PROMPT = "inkstyle, red heart, in the style of inkstyle"
EXAMPLES = Path(__file__).parents[4] / "examples" / "ink-style"


@pytest.fixture(scope="module")
def spec(write_spec):
    return write_spec(sample_prompts=[PROMPT], sample_steps=2, sample_guidance_scale=4.0)


@pytest.fixture(scope="module")
def uninterrupted(spec, start, tmp_path_factory):
    """A run from beginning to end, and where its files are."""
    output = tmp_path_factory.mktemp("uninterrupted")
    program = start(spec, output)
    assert program.end() == 0
    return program, output


def _files(output):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((output / "checkpoints").iterdir())
    }


def test_it_tells_what_it_does_and_ends_with_a_result(uninterrupted):
    program, output = uninterrupted
    checkpoints = program.of("checkpoint")
    assert [event["step"] for event in checkpoints] == [6, STEPS]
    assert [event["epoch"] for event in checkpoints] == [2, 4]
    for event in checkpoints:
        data = Path(event["path"]).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (event["sha256"], event["bytes"])
    progress = [event for event in program.of("progress") if event["stage"] == "train"]
    assert progress[-1]["fraction"] == 1.0
    assert sorted(program.losses()) == list(range(1, STEPS + 1))
    assert [event["step"] for event in program.of("state")] == [6, STEPS]
    assert program.events[-1]["type"] == "result"
    assert sorted(path.name for path in (output / "states").iterdir()) == [
        "state-00000006",
        "state-00000012",
    ]


def test_the_recommended_checkpoint_has_the_lowest_validation_loss(uninterrupted):
    program, _ = uninterrupted
    losses = {event["step"]: event["validation_loss"] for event in program.of("checkpoint")}
    assert program.of("result")[0]["recommended_step"] == min(losses, key=losses.__getitem__)


def test_each_checkpoint_has_a_picture_of_each_prompt(uninterrupted):
    program, _ = uninterrupted
    samples = program.of("sample")
    assert [(event["step"], event["prompt"]) for event in samples] == [(6, PROMPT), (12, PROMPT)]
    for event in samples:
        with Image.open(event["path"]) as image:
            assert image.size == (64, 64)


def test_the_base_is_as_it_was(uninterrupted):
    program, _ = uninterrupted
    assert program.of("result")[0]["base_hash_unchanged"] is True


def test_a_killed_run_goes_on_to_the_same_bytes(uninterrupted, spec, start, tmp_path):
    program = start(spec, tmp_path / "run", "--state-every-seconds=0")
    while True:
        state = program.until("state")
        assert state is not None, "the run ended before it could be killed"
        if state["step"] == 4:
            break
    program.process.kill()
    assert program.end() == -signal.SIGKILL
    resumed = start(spec, tmp_path / "run", "--resume")
    assert resumed.end() == 0
    assert min(resumed.losses()) >= 5
    assert _files(tmp_path / "run") == _files(uninterrupted[1])
    whole, rest = uninterrupted[0].losses(), resumed.losses()
    assert rest == {step: whole[step] for step in rest}


def test_sigterm_saves_the_state_and_the_run_goes_on(uninterrupted, spec, start, tmp_path):
    program = start(spec, tmp_path / "run")
    assert program.until("metrics")
    program.process.terminate()
    assert program.end() == 75
    stopped = program.events[-1]
    assert stopped["type"] == "stopped"
    assert stopped["step"] < STEPS
    assert program.of("state")[-1]["step"] == stopped["step"]
    resumed = start(spec, tmp_path / "run", "--resume")
    assert resumed.end() == 0
    assert _files(tmp_path / "run") == _files(uninterrupted[1])


def test_it_stops_when_whoever_started_it_is_gone(spec, start, tmp_path):
    program = start(spec, tmp_path / "run", "--stop-on-stdin-eof")
    program.process.stdin.close()
    assert program.end() == 75
    assert program.events[-1]["type"] == "stopped"


def test_a_damaged_newest_state_gives_way_to_the_one_before(uninterrupted, spec, start, tmp_path):
    shutil.copytree(uninterrupted[1] / "states", tmp_path / "run" / "states")
    newest = tmp_path / "run" / "states" / "state-00000012" / "tensors.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    resumed = start(spec, tmp_path / "run", "--resume")
    assert resumed.end() == 0
    warnings = [e["message"] for e in resumed.of("log") if e["level"] == "warning"]
    assert any("state-00000012 is damaged" in message for message in warnings)
    assert sorted(resumed.losses()) == list(range(7, STEPS + 1))
    assert _files(tmp_path / "run").items() <= _files(uninterrupted[1]).items()


def test_a_checkpoint_says_what_made_it(uninterrupted):
    program, _ = uninterrupted
    with safe_open(program.of("checkpoint")[0]["path"], "pt") as file:
        metadata = file.metadata()
        names = list(file.keys())
    assert metadata == program.of("checkpoint")[0]["file_metadata"]
    assert metadata["ss_network_dim"] == "4"
    assert metadata["ss_steps"] == "6"
    assert metadata["modelspec.trigger_phrase"] == "inkstyle"
    assert metadata["modelspec.prediction_type"] == "epsilon"
    assert all(name.startswith("lora_unet_") for name in names)
    tags = json.loads(metadata["ss_tag_frequency"])["ink"]
    assert tags["a drawing"] == 10


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"params": {"rank": 0, "seed": 1}}, "params.rank"),
        ({"params": {"seed": None}}, "params.seed"),
        ({"images": []}, "images"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_spec_is_named_and_ends_with_64(change, named, spec, start, tmp_path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({**json.loads(spec.read_text()), **change}))
    program = start(wrong, tmp_path / "run")
    assert program.end() == 64
    assert [event["type"] for event in program.events] == ["error"]
    assert program.events[0]["code"] == "spec_invalid"
    assert named in program.events[0]["message"]


def test_a_truncated_picture_is_named(write_spec, start, tmp_path):
    broken = tmp_path / "broken-bell.png"
    shutil.copy(EXAMPLES / "bell.png", broken)
    broken.write_bytes(broken.read_bytes()[:-400])
    program = start(write_spec(pictures=[broken]), tmp_path / "run")
    assert program.end() == 65
    error = program.events[-1]
    assert (error["type"], error["code"], error["retryable"]) == ("error", "image_broken", False)
    assert "broken-bell.png" in error["message"]
