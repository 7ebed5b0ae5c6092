"""What a request is told of the scheduler it names."""

import pytest

from app.generations.schedulers import SCHEDULERS, why_not


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_may_be_asked_for(name):
    assert why_not(name, steps=30, pure_noise=False) is None


def test_a_base_that_begins_at_pure_noise_names_what_can():
    told = why_not("heun", steps=30, pure_noise=True)
    assert told is not None
    able = told.partition("these can: ")[2].split(", ")
    assert "euler" in able
    assert "heun" not in able
    assert all(why_not(name, steps=30, pure_noise=True) is None for name in able)


def test_no_more_steps_than_were_distilled():
    assert why_not("tcd", steps=50, pure_noise=False) is None
    assert why_not("tcd", steps=51, pure_noise=False) == "tcd makes at most 50 steps, not 51"
