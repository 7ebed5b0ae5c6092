"""What the UNet is asked for: the noise schedule, the target, and the weight of each timestep."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """The base model's forward process.

    Attributes:
        alphas_cumprod: share of the signal's variance left at each timestep, (T,), float32.
        prediction: what the UNet predicts.
    """

    alphas_cumprod: Tensor
    prediction: Literal["epsilon", "v_prediction"]

    @classmethod
    def of(cls, scheduler_config: Mapping[str, Any]) -> "NoiseSchedule":
        """From the base's scheduler configuration; zero-terminal rescaling comes first.

        Raises:
            ValueError: the base predicts something else.
        """
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        scheduler = DDPMScheduler.from_config(dict(scheduler_config))
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


def min_snr_weights(
    snr: Tensor, gamma: float, prediction: Literal["epsilon", "v_prediction"] = "epsilon"
) -> Tensor:
    """Weight losses so that easy timesteps count for less (Hang et al. 2023).

    Args:
        snr: signal-to-noise ratio of each sampled timestep, (B,), > 0 for epsilon, ≥ 0 for v.
        gamma: ceiling on the ratio; 5.0 is the paper's.

    Returns:
        Weights (B,): min(snr, gamma) / snr for epsilon, exactly 1 wherever snr <= gamma;
        min(snr, gamma) / (snr + 1) for v.

    Raises:
        ValueError: gamma is not positive.
    """
    if gamma <= 0:
        raise ValueError(f"gamma is {gamma}; it must be positive")
    capped = snr.clamp(max=gamma)
    return capped / snr if prediction == "epsilon" else capped / (snr + 1)


def weighted_loss(
    predicted: Tensor, target: Tensor, snr: Tensor, gamma: float | None, schedule: NoiseSchedule
) -> Tensor:
    """Mean over the batch of each image's weighted mean squared error; a scalar, float32."""
    errors = (predicted.float() - target.float()).square().mean(dim=(1, 2, 3))  # (B,)
    if gamma is not None:
        errors = errors * min_snr_weights(snr, gamma, schedule.prediction)
    return errors.mean()
