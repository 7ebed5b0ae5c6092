"""Every schedule is a sound factor at every step, and has the shape of its name."""

import math
from typing import get_args

import pytest

from app.trainings.params import LrScheduler, TrainingParams
from worker.ml.training.learning.schedules import rate_factor

SCHEDULES = get_args(LrScheduler)


def factors(name, total, **params):
    factor = rate_factor(TrainingParams(lr_scheduler=name, **params), total)
    return [factor(step) for step in range(total + 1)]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 3, 7, 100, 3001])
def test_a_factor_is_between_0_and_1_at_every_step(name, total):
    for warmup in {0, 1, total // 2, total - 1}:
        if warmup < total:
            for cycles, power in ((1, 1.0), (7, 0.3), (100, 10.0)):
                found = factors(
                    name, total, lr_warmup_steps=warmup, lr_cycles=cycles, lr_power=power
                )
                assert all(0 <= factor <= 1 + 1e-12 for factor in found), (warmup, cycles, power)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_rises_in_a_straight_line_to_1(name):
    found = factors(name, 20, lr_warmup_steps=5)
    assert found[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_warm_up_the_first_step_has_the_whole_rate(name):
    assert factors(name, 20)[0] == pytest.approx(1)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "constant"])
def test_all_but_constant_end_at_nothing(name):
    assert factors(name, 20, lr_warmup_steps=5)[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("constant", {}, [1, 1, 1]),
        ("linear", {}, [0.75, 0.5, 0.25]),
        ("cosine", {}, [(1 + math.cos(math.pi * share)) / 2 for share in (0.25, 0.5, 0.75)]),
        ("cosine_with_restarts", {"lr_cycles": 2}, [0.5, 1, 0.5]),
        ("polynomial", {"lr_power": 2.0}, [0.75**2, 0.5**2, 0.25**2]),
        # Chen et al. 2021: (1 - p) / (1/2 + (1 - p)/2).
        ("rex", {}, [6 / 7, 2 / 3, 2 / 5]),
    ],
)
def test_a_schedule_has_the_shape_of_its_name(name, params, expected):
    found = factors(name, 8, **params)
    assert [found[2], found[4], found[6]] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_factor_depends_on_the_step_alone(name):
    params = TrainingParams(lr_scheduler=name, lr_warmup_steps=3)
    forwards, backwards = rate_factor(params, 30), rate_factor(params, 30)
    assert [forwards(step) for step in range(30)] == [
        backwards(step) for step in reversed(range(30))
    ][::-1]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [10, 11])
def test_warm_up_as_long_as_the_run_is_refused(name, warmup):
    with pytest.raises(ValueError, match=f"lr_warmup_steps is {warmup}, but the run has 10 steps"):
        rate_factor(TrainingParams(lr_scheduler=name, lr_warmup_steps=warmup), 10)


def test_a_run_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="total_steps is 0"):
        rate_factor(TrainingParams(), 0)
