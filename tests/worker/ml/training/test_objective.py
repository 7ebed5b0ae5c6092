"""The objective against the formulas, in float64, and against diffusers' own scheduler."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from worker.ml.training.objective import NoiseSchedule, min_snr_weights, weighted_loss

CONFIG = json.loads(
    (Path(__file__).parents[4] / "assets/emoji-64/scheduler/scheduler_config.json").read_text()
)
V = {**CONFIG, "prediction_type": "v_prediction"}
ALL = torch.arange(1000)


def _alphas_float64():
    betas = torch.linspace(
        CONFIG["beta_start"] ** 0.5, CONFIG["beta_end"] ** 0.5, 1000, dtype=torch.float64
    )
    return torch.cumprod(1 - betas**2, 0)


def test_snr_agrees_with_float64_over_the_whole_schedule():
    alphas = _alphas_float64()
    found = NoiseSchedule.of(CONFIG).snr(ALL).double()
    assert torch.allclose(found, alphas / (1 - alphas), rtol=2e-3)


@pytest.mark.parametrize("gamma", [0.5, 5.0, 20.0])
def test_min_snr_weights_agree_with_float64(gamma):
    alphas = _alphas_float64()
    snr = alphas / (1 - alphas)
    wanted = torch.minimum(snr, torch.tensor(gamma, dtype=torch.float64)) / snr
    assert torch.allclose(min_snr_weights(snr.float(), gamma).double(), wanted, rtol=1e-6)
    for_v = min_snr_weights(snr.float(), gamma, "v_prediction").double()
    assert torch.allclose(for_v, wanted * snr / (snr + 1), rtol=1e-6)


def test_hard_timesteps_have_weight_one_exactly():
    weights = min_snr_weights(torch.tensor([0.01, 5.0, 50.0]), 5.0)
    assert weights[:2].tolist() == [1.0, 1.0]
    assert float(weights[2]) == pytest.approx(0.1)


def test_gamma_must_be_positive():
    with pytest.raises(ValueError, match="gamma is 0"):
        min_snr_weights(torch.ones(1), 0.0)


@pytest.mark.parametrize("config", [CONFIG, V])
def test_noising_and_velocity_are_those_of_diffusers(config):
    schedule, reference = NoiseSchedule.of(config), DDPMScheduler.from_config(config)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([0, 500, 999])
    noisy = reference.add_noise(latents, noise, timesteps)
    assert torch.allclose(schedule.add_noise(latents, noise, timesteps), noisy, atol=1e-6)
    epsilon = config["prediction_type"] == "epsilon"
    target = noise if epsilon else reference.get_velocity(latents, noise, timesteps)
    assert torch.allclose(schedule.target(latents, noise, timesteps), target, atol=1e-6)


def test_a_base_that_predicts_the_picture_is_refused():
    with pytest.raises(ValueError, match="predicts sample"):
        NoiseSchedule.of({**CONFIG, "prediction_type": "sample"})


def test_each_pictures_error_is_weighed_by_its_own_timestep():
    schedule = NoiseSchedule.of(CONFIG)
    timesteps = torch.tensor([10, 900])
    predicted, target = torch.zeros(2, 4, 8, 8), torch.ones(2, 4, 8, 8)
    snr = schedule.snr(timesteps)
    loss = weighted_loss(predicted, target, snr, 5.0, schedule)
    assert float(loss) == pytest.approx((5.0 / float(snr[0]) + 1.0) / 2)
    assert float(weighted_loss(predicted, target, snr, None, schedule)) == 1.0
