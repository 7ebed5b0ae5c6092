"""Schedulers by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.generations.schedulers import SCHEDULERS as OFFERED
from worker.ml.inference.errors import SchedulerUnknown, SchedulerUnsupported
from worker.ml.inference.generate import generate
from worker.ml.inference.lms import ExactLMSScheduler
from worker.ml.inference.schedulers import SCHEDULERS, begins_at_pure_noise, make_scheduler

RANDOM = [name for name in SCHEDULERS if OFFERED[name].random]
CONVERGING = [name for name in SCHEDULERS if not OFFERED[name].random]
CAN_V = [name for name in SCHEDULERS if OFFERED[name].pure_noise]


@pytest.fixture
def draw(handle, make_spec):
    def draw(**changes: object) -> NDArray[np.float64]:
        spec = make_spec(**changes)
        image = generate(handle, spec, lambda *_: None, lambda: False).images[0].image
        return np.asarray(image, dtype=float)

    return draw


@pytest.fixture(scope="module")
def destination(loaded, make_spec):
    """Where ever smaller steps lead."""
    loaded.bank.activate([])
    spec = make_spec(scheduler="euler", steps=100)
    image = generate(loaded, spec, lambda *_: None, lambda: False).images[0].image
    return np.asarray(image, dtype=float)


def distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Root of the mean squared difference, in steps of 255."""
    return float(np.sqrt(((one - other) ** 2).mean()))


def is_a_red_apple_on_white(found: NDArray[np.float64]) -> bool:
    corners = found[[2, 2, -3, -3], [2, -3, 2, -3]]
    middle = found[24:44, 24:44].reshape(-1, 3).mean(axis=0)
    return bool(corners.min() > 200 and middle[0] > max(middle[1:]) + 60)


def test_the_api_offers_exactly_the_schedulers_there_are():
    assert tuple(OFFERED) == SCHEDULERS


@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_the_api_says_of_a_scheduler_is_so(handle, name):
    made = make_scheduler(name, handle.base.scheduler_config)
    assert made.order == OFFERED[name].calls
    assert made.config.get("original_inference_steps") == OFFERED[name].max_steps
    assert begins_at_pure_noise(name) == OFFERED[name].pure_noise


@pytest.mark.parametrize("name", CONVERGING)
def test_a_scheduler_that_is_not_random_comes_to_the_same_picture(draw, destination, name):
    found = draw(scheduler=name, steps=24)
    # Another seed's picture is 60 away.
    assert distance(found, destination) < 10
    assert is_a_red_apple_on_white(found)


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_scheduler_draws_the_same_subject_and_the_same_again(draw, destination, name):
    found = draw(scheduler=name, steps=12)
    assert is_a_red_apple_on_white(found)
    assert distance(found, destination) > 10
    assert np.array_equal(found, draw(scheduler=name, steps=12))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_starts_from_a_picture(draw, destination, tmp_path: Path, name):
    from PIL import Image

    source = tmp_path / "source.png"
    Image.fromarray(destination.astype(np.uint8)).save(source)
    # Another seed, so that what is kept is the source's.
    asked = {"scheduler": name, "steps": 10, "seeds": (2,), "init_image": str(source)}
    little, much = (draw(**asked, strength=strength) for strength in (0.3, 0.8))
    assert is_a_red_apple_on_white(little)
    assert distance(little, destination) < distance(much, destination)
    assert distance(little, destination) < 40


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_number_of_steps_gives_finite_latents(handle, name):
    for steps in (1, 2, 3, 4, 50):
        made = make_scheduler(name, handle.base.scheduler_config, steps=steps)
        made.set_timesteps(steps)
        latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        latents = latents * made.init_noise_sigma
        for timestep in made.timesteps:
            foretold = 0.5 * made.scale_model_input(latents, timestep)
            latents = made.step(foretold, timestep, latents, return_dict=False)[0]
        assert torch.isfinite(latents).all(), steps


@pytest.mark.parametrize("name", CAN_V)
def test_a_v_model_of_zero_terminal_snr_is_solved(handle, name):
    """A UNet that always foretells the velocity towards one picture leads to that picture."""
    config = {
        **handle.base.scheduler_config,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    made = make_scheduler(name, config)
    assert made.config.prediction_type == "v_prediction"
    made.set_timesteps(20)
    picture = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4)
    latents = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    latents = latents * made.init_noise_sigma
    generator = torch.Generator().manual_seed(1)
    for timestep in made.timesteps:
        # x = αx₀ + σε, so v = αε - σx₀ = (αx - x₀) / σ, of the variance-preserving x.
        alpha_squared = made.alphas_cumprod[round(float(timestep))]
        alpha, sigma = alpha_squared.sqrt(), (1 - alpha_squared).sqrt()
        scaled = made.scale_model_input(latents, timestep)
        arguments = {"generator": generator} if OFFERED[name].random else {}
        latents = made.step(
            (alpha * scaled - picture) / sigma, timestep, latents, **arguments, return_dict=False
        )[0]
    # What is left is the noise of the last timestep.
    assert (latents - picture).abs().max() < 0.15


def test_a_base_of_zero_terminal_snr_refuses_what_cannot_begin_at_pure_noise(handle):
    config = {**handle.base.scheduler_config, "rescale_betas_zero_snr": True}
    with pytest.raises(SchedulerUnsupported, match=r"heun cannot begin at pure noise.*euler_a, "):
        make_scheduler("heun", config)


def test_more_steps_than_were_distilled_are_refused(handle, make_spec):
    spec = make_spec(scheduler="lcm", steps=60)
    with pytest.raises(SchedulerUnsupported, match="lcm makes at most 50 steps, not 60"):
        generate(handle, spec, lambda *_: None, lambda: False)


def test_the_linear_multistep_coefficients_are_the_integrals(handle):
    """Against the trapezoid rule on a fine grid."""
    made = make_scheduler("lms", handle.base.scheduler_config)
    assert isinstance(made, ExactLMSScheduler)
    made.set_timesteps(8)
    sigmas = [float(sigma) for sigma in made.sigmas]
    grid = np.linspace(sigmas[5], sigmas[6], 20_001)
    for own in range(4):
        basis = np.ones_like(grid)
        for other in set(range(4)) - {own}:
            basis *= (grid - sigmas[5 - other]) / (sigmas[5 - own] - sigmas[5 - other])
        integral = np.trapezoid(basis, grid)
        assert made.get_lms_coefficient(4, 5, own) == pytest.approx(integral, rel=1e-5)


def test_an_unknown_name_lists_those_there_are(handle):
    with pytest.raises(SchedulerUnknown, match="euler, euler_karras"):
        make_scheduler("plms", handle.base.scheduler_config)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_bases_own_noise_schedule_is_kept(handle, name):
    config = {**handle.base.scheduler_config, "prediction_type": "v_prediction", "beta_end": 0.02}
    made = make_scheduler(name, config)
    assert made.config.prediction_type == "v_prediction"
    assert made.config.beta_end == 0.02
