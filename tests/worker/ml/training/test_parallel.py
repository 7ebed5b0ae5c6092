"""Two processes make what one makes with the doubled batch."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from worker.ml.training.parallel import Group

PARAMS = {
    "mixed_precision": "no",
    # Eighteen passes of nine pictures: batches of four, the last one uneven for two processes.
    "num_repeats": 3,
    "gradient_accumulation": 2,
    "noise_offset": 0.05,
    "flip_augment": True,
    "caption_dropout_rate": 0.2,
}


def _launch(spec, output, cache, processes):
    """By accelerate, as the service does it."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", f"--num_processes={processes}"),
        *("--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
        *(["--multi_gpu", "--main_process_port=0"] if processes > 1 else []),
        *("--num_cpu_threads_per_process=1", "--module", "worker.ml.training", str(spec)),
        *(f"--output={output}", f"--cache={cache}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def _losses(events):
    rows = [row for event in events if event["type"] == "metrics" for row in event["rows"]]
    return {row["step"]: row["loss"] for row in rows if row["loss"] is not None}


def test_two_processes_have_the_loss_curve_of_one_with_the_doubled_batch(write_spec, tmp_path):
    # Each with a cache of its own: two processes build theirs together.
    one = _launch(write_spec({**PARAMS, "batch_size": 4}), tmp_path / "one", tmp_path / "a", 1)
    two = _launch(write_spec({**PARAMS, "batch_size": 2}), tmp_path / "two", tmp_path / "b", 2)
    assert [event["type"] for event in two].count("result") == 1
    curve, doubled = _losses(two), _losses(one)
    assert len(curve) == len(doubled) > 10
    worst = max(abs(curve[step] / doubled[step] - 1) for step in doubled)
    print(f"largest relative difference of {len(curve)} steps' losses: {worst:.1e}")
    assert worst < 1e-4
    files = [sorted((tmp_path / name / "checkpoints").iterdir())[-1] for name in ("one", "two")]
    for (name, mine), theirs in zip(
        load_file(files[0]).items(), load_file(files[1]).values(), strict=True
    ):
        # Adam divides by the size of gradients, so that the smallest ones' rounding counts most.
        assert torch.allclose(mine, theirs, atol=2e-3), name


@pytest.mark.parametrize(("count", "size"), [(7, 3), (2, 4), (0, 2), (8, 2)])
def test_parts_are_even_to_one_and_together_all(count, size):
    parts = [range(count)[Group(rank, size).part(count)] for rank in range(size)]
    assert [number for part in parts for number in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
