"""How soon a job ends that is canceled where little is asked: while files come, load and go."""

import pytest

from tests.faults.harness.stops import Stops
from tests.faults.harness.work import Work

# The long form measures more; cancels and stops in the middle of a training are tested beside.
STAGES = [
    "generation_in_queue",
    "generation_at_the_start",
    "generation_in_its_upload",
    "training_at_the_start",
]


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_is_stopped_in_time_at_any_stage(work: Work, stage: str):
    assert getattr(Stops(work.stack, work), stage)().violation is None
