"""The objective against the formulas, in float64, and against diffusers' own scheduler."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from app.trainings.params import TrainingParams
from worker.ml.training.learning.objective import (
    NoiseSchedule,
    debiased_weights,
    image_errors,
    min_snr_weights,
    timestep_weights,
)

CONFIG = json.loads(
    (Path(__file__).parents[5] / "assets/emoji-64/scheduler/scheduler_config.json").read_text()
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


def test_zero_terminal_rescaling_comes_before_every_ratio():
    """Lin et al. 2023: √ᾱ shifted to end at 0 and scaled to begin where it began."""
    roots = _alphas_float64().sqrt()
    wanted = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    schedule = NoiseSchedule.of(V, TrainingParams(zero_terminal_snr=True))
    assert float(schedule.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-6)
    assert torch.allclose(schedule.alphas_cumprod.double(), wanted, atol=1e-5)
    snr = schedule.snr(ALL)
    for params in (TrainingParams(), TrainingParams(debiased_estimation=True)):
        for prediction in ("epsilon", "v_prediction"):
            assert torch.isfinite(timestep_weights(snr, params, prediction)).all()


def test_the_parameters_may_overrule_what_the_base_predicts():
    assert NoiseSchedule.of(CONFIG, TrainingParams()).prediction == "epsilon"
    asked = TrainingParams(prediction="v_prediction")
    assert NoiseSchedule.of(CONFIG, asked).prediction == "v_prediction"


def test_debiased_weights_agree_with_float64_within_their_bounds():
    alphas = _alphas_float64()
    snr = alphas / (1 - alphas)
    wanted = snr.clamp(1e-3, 1e3) ** -0.5
    assert torch.allclose(debiased_weights(snr.float()).double(), wanted, rtol=1e-5)
    for_v = debiased_weights(snr.float(), "v_prediction").double()
    assert torch.allclose(for_v, 1 / (snr + 1), rtol=1e-5)
    assert float(debiased_weights(torch.zeros(1))) == pytest.approx(1e3**0.5)


def _reference(loss, delta, difference, mask):
    """The formulas in float64."""
    if loss == "l2":
        errors = difference**2
    else:
        errors = 2 * ((difference**2 + delta**2) ** 0.5 - delta)
        errors = errors * delta if loss == "huber" else errors
    weights = torch.ones_like(errors) if mask is None else mask.expand_as(errors)
    return (errors * weights).sum((1, 2, 3)) / weights.sum((1, 2, 3))


@pytest.mark.parametrize("loss", ["l2", "huber", "smooth_l1"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighting", ["none", "min_snr", "debiased"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_every_loss_and_its_gradient_agree_with_float64(loss, masked, weighting, prediction):
    params = TrainingParams(
        loss=loss,
        min_snr_gamma=5.0 if weighting == "min_snr" else None,
        debiased_estimation=weighting == "debiased",
        huber_delta=0.3,
        prediction=prediction,
    )
    schedule = NoiseSchedule.of(CONFIG, params)
    timesteps = torch.tensor([3, 250, 700, 999])
    generator = torch.Generator().manual_seed(0)
    latents, noise, answer = (
        torch.randn(4, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    mask = torch.rand(4, 1, 8, 8, generator=generator, dtype=torch.float64) if masked else None

    kept = _alphas_float64()[timesteps].view(-1, 1, 1, 1)
    v = prediction == "v_prediction"
    target = kept.sqrt() * noise - (1 - kept).sqrt() * latents if v else noise
    snr = (kept / (1 - kept)).flatten()
    weights = torch.ones_like(snr)
    if weighting == "min_snr":
        weights = snr.clamp(max=5.0) / (snr + 1 if v else snr)
    elif weighting == "debiased":
        weights = 1 / (snr + 1) if v else snr.clamp(1e-3, 1e3) ** -0.5
    exact = answer.clone().requires_grad_()
    (_reference(loss, 0.3, exact - target, mask) * weights).sum().backward()

    single = answer.float().requires_grad_()
    found = image_errors(
        single,
        schedule.target(latents.float(), noise.float(), timesteps),
        params,
        None if mask is None else mask.float(),
    )
    by_timestep = timestep_weights(schedule.snr(timesteps), params, schedule.prediction)
    (found if by_timestep is None else found * by_timestep).sum().backward()
    error = (single.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert float(error) < 1e-3


def test_huber_is_the_square_near_nothing_and_a_line_far_away():
    params = TrainingParams(loss="huber", huber_delta=0.1)
    small, large = torch.full((1, 4, 2, 2), 1e-3), torch.full((1, 4, 2, 2), 100.0)
    nothing = torch.zeros(1, 4, 2, 2)
    assert float(image_errors(small, nothing, params)) == pytest.approx(1e-6, rel=1e-2)
    assert float(image_errors(large, nothing, params)) == pytest.approx(0.2 * 100, rel=1e-2)


def test_a_mask_leaves_out_what_it_hides_and_an_empty_one_everything():
    predicted, target = torch.zeros(2, 4, 8, 8), torch.ones(2, 4, 8, 8)
    target[:, :, :, 4:] = 100
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :, :4] = 0.5
    assert image_errors(predicted, target, TrainingParams(), mask).tolist() == [1.0, 0.0]


def test_each_pictures_error_is_weighed_by_its_own_timestep():
    schedule = NoiseSchedule.of(CONFIG)
    snr = schedule.snr(torch.tensor([10, 900]))
    weights = timestep_weights(snr, TrainingParams(), "epsilon")
    assert weights.tolist() == pytest.approx([5.0 / float(snr[0]), 1.0])
    assert timestep_weights(snr, TrainingParams(min_snr_gamma=None), "epsilon") is None
