"""The GPU benchmark runs end to end without a GPU, at toy size."""

import pytest

from bench.gpu_training import Bench, Case, _toy
from worker.ml.training.memory.ladder import MemoryPlan

CASES = [
    Case("straight", 2, MemoryPlan()),
    Case("ours", 2, MemoryPlan()),
    Case("ours", 2, MemoryPlan(checkpointing=True, parts=2, storage="int8")),
]


@pytest.fixture(scope="module")
def toy() -> Bench:
    return Bench(_toy(), 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.loop}-{case.memory.storage}")
# The libraries of the straight loop warn of what it does as their example does it.
@pytest.mark.filterwarnings("ignore")
def test_a_case_gives_figures(toy, case):
    found = toy.run(case)
    assert found.error is None
    assert found.ms_per_image is not None
    assert found.ms_per_image > 0
    assert 0 < found.peak_share < 1
