"""What the UNet is asked for: the noise schedule, the target, and what each error counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from app.trainings.params import TrainingParams

Prediction = Literal["epsilon", "v_prediction"]
# Bounds on the ratio that debiased estimation divides by: at a zero-terminal last step it is 0.
_DEBIASED_SNR = (1e-3, 1e3)


@dataclass(frozen=True)
class NoiseSchedule:
    """The base model's forward process.

    Attributes:
        alphas_cumprod: share of the signal's variance left at each timestep, (T,), float32.
        prediction: what the UNet predicts.
    """

    alphas_cumprod: Tensor
    prediction: Prediction

    @classmethod
    def of(
        cls, scheduler_config: Mapping[str, Any], params: TrainingParams | None = None
    ) -> "NoiseSchedule":
        """From the base's scheduler configuration, and what the parameters say otherwise.

        Zero-terminal rescaling (Lin et al. 2023) comes first, so that every ratio is taken from
        the rescaled table.

        Raises:
            ValueError: the base predicts something else.
        """
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        scheduler = DDPMScheduler.from_config(adjusted_config(scheduler_config, params))
        prediction = scheduler.config.prediction_type
        if prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"the base predicts {prediction}; epsilon or v_prediction is needed")
        return cls(scheduler.alphas_cumprod.float(), prediction)

    @property
    def timesteps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    def to(self, device: torch.device) -> "NoiseSchedule":
        """The same on another device."""
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = √ᾱ·x₀ + √(1-ᾱ)·ε, (B, C, h, w) (Ho et al. 2020, eq. 4)."""
        kept = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return kept.sqrt() * latents + (1 - kept).sqrt() * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """ε, or v = √ᾱ·ε - √(1-ᾱ)·x₀ (Salimans & Ho 2022), (B, C, h, w)."""
        if self.prediction == "epsilon":
            return noise
        kept = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return kept.sqrt() * noise - (1 - kept).sqrt() * latents

    def snr(self, timesteps: Tensor) -> Tensor:
        """ᾱ / (1-ᾱ), (B,); 0 at a zero-terminal last step."""
        kept = self.alphas_cumprod[timesteps]
        return kept / (1 - kept)


def adjusted_config(
    scheduler_config: Mapping[str, Any], params: TrainingParams | None
) -> dict[str, Any]:
    """A base's scheduler configuration with what the parameters say of prediction and last step."""
    config = dict(scheduler_config)
    if params is not None and params.prediction != "auto":
        config["prediction_type"] = params.prediction
    if params is not None and params.zero_terminal_snr:
        config["rescale_betas_zero_snr"] = True
    return config


def min_snr_weights(snr: Tensor, gamma: float, prediction: Prediction = "epsilon") -> Tensor:
    """Weight losses so that easy timesteps count for less (Hang et al. 2023).

    Args:
        snr: signal-to-noise ratio of each sampled timestep, (B,), ≥ 0.
        gamma: ceiling on the ratio; 5.0 is the paper's.

    Returns:
        Weights (B,): min(snr, gamma) / snr for epsilon, exactly 1 wherever snr <= gamma;
        min(snr, gamma) / (snr + 1) for v.

    Raises:
        ValueError: gamma is not positive.
    """
    if gamma <= 0:
        raise ValueError(f"gamma is {gamma}; it must be positive")
    if prediction == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    # Not by a division of two zeros where the last step has no signal at all.
    return gamma / snr.clamp(min=gamma)


def debiased_weights(snr: Tensor, prediction: Prediction = "epsilon") -> Tensor:
    """Weigh by 1 / √SNR for epsilon, 1 / (SNR + 1) for v (Yu et al. 2023), (B,).

    The ratio is held within 1e-3 and 1e3, as it is 0 or beyond float16 at a schedule's ends.
    """
    if prediction == "v_prediction":
        return 1 / (snr + 1)
    return snr.clamp(*_DEBIASED_SNR).rsqrt()


def timestep_weights(snr: Tensor, params: TrainingParams, prediction: Prediction) -> Tensor | None:
    """What each image's error counts for its timestep, (B,); None: all count 1."""
    if params.debiased_estimation:
        return debiased_weights(snr, prediction)
    if params.min_snr_gamma is not None:
        return min_snr_weights(snr, params.min_snr_gamma, prediction)
    return None


def image_errors(
    predicted: Tensor, target: Tensor, params: TrainingParams, mask: Tensor | None = None
) -> Tensor:
    """Each image's mean error, (B,), float32.

    With d the difference and c = `huber_delta`: l2 is d²; huber is 2c·(√(d² + c²) - c), which
    near 0 is d²; smooth_l1 is the same without the factor c (pseudo-Huber, Charbonnier 1997).

    Args:
        predicted, target: (B, C, h, w).
        mask: (B, 1, h, w), ≥ 0; the mean is weighted by it, so that a small subject in a large
            masked picture learns as fast as a full one. Nothing but zeros gives an error of 0.
    """
    difference = predicted.float() - target.float()
    if params.loss == "l2":
        errors = difference.square()
    else:
        delta = params.huber_delta
        errors = 2 * ((difference.square() + delta**2).sqrt() - delta)
        if params.loss == "huber":
            errors = delta * errors
    if mask is None:
        return errors.mean(dim=(1, 2, 3))
    weights = mask.float().expand_as(errors)
    total = weights.sum(dim=(1, 2, 3))
    return (errors * weights).sum(dim=(1, 2, 3)) / total.clamp(min=torch.finfo(total.dtype).tiny)
