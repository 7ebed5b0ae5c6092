"""Schedulers by name."""

import numpy as np
import pytest

from app.generations import schedulers as offered
from worker.ml.inference.errors import SchedulerUnknown
from worker.ml.inference.generate import generate
from worker.ml.inference.schedulers import SCHEDULERS, make_scheduler


def test_the_api_offers_exactly_the_schedulers_there_are():
    assert set(offered.SCHEDULERS) == set(SCHEDULERS)
    assert len(offered.SCHEDULERS) == len(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_draws_the_same_subject(handle, make_spec, name):
    """Same seed, other solver: near the picture that many small steps give, unlike bare noise."""
    image = generate(
        handle, make_spec(scheduler=name, steps=12), lambda *_: None, lambda: False
    ).images[0]
    found = np.asarray(image.image, dtype=float)
    # A red apple on white: the corners stay white, the middle is red.
    corners = found[[2, 2, -3, -3], [2, -3, 2, -3]]
    middle = found[24:44, 24:44].reshape(-1, 3).mean(axis=0)
    assert corners.min() > 200
    assert middle[0] > middle[1] + 60
    assert middle[0] > middle[2] + 60


def test_an_unknown_name_lists_those_there_are(handle):
    with pytest.raises(SchedulerUnknown, match="euler, euler_karras"):
        make_scheduler("plms", handle.base.scheduler_config)


def test_the_bases_own_noise_schedule_is_kept(handle):
    config = {**handle.base.scheduler_config, "prediction_type": "v_prediction", "beta_end": 0.02}
    for name in SCHEDULERS:
        made = make_scheduler(name, config)
        assert made.config.prediction_type == "v_prediction", name
        assert made.config.beta_end == 0.02, name
