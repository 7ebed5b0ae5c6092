"""How far a LoRA moves what it should leave alone: generic prompts, without the trigger word.

Along the base's own way from noise to pictures of these prompts, the UNet with the LoRA is asked
what it would predict. 0 means nothing moved; 1, as much as the prediction itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.ml.training.sampling import noise_for
from worker.ml.training.step import Denoiser

WAY_STEPS = 8
NOISE_SEED = 1
# At a zero-terminal end nothing is left of the picture to divide by.
_LEAST_SIGNAL = 1e-4


@dataclass(frozen=True)
class _Point:
    noisy: Tensor
    timestep: int
    predicted: Tensor


class PriorDrift:
    """The base's way for some prompts, and the distance of a LoRA's answers along it."""

    def __init__(
        self,
        denoiser: Denoiser,
        prompts: Sequence[str],
        shape: tuple[int, int, int],
        time_ids: tuple[int, ...],
        device: torch.device,
        pause: Callable[[], None],
    ) -> None:
        """Walk it (DDIM, Song et al. 2020, η = 0); the adapters must be off.

        Args:
            shape: of one picture's latents, (4, h, w).
            time_ids: SDXL's six numbers for it.
        """
        self._denoiser = denoiser
        self._prompts = list(prompts)
        self._time_ids = torch.tensor([time_ids], device=device)
        self._ways: list[list[_Point]] = []
        for number, prompt in enumerate(self._prompts):
            noise = noise_for((1, *shape), NOISE_SEED, number).to(device)
            self._ways.append(self._walk(prompt, noise, pause))

    def measure(self, pause: Callable[[], None]) -> float:
        """Mean squared difference over the base's mean square, at every other step of the way."""
        moved = size = 0.0
        for prompt, way in zip(self._prompts, self._ways, strict=True):
            pause()
            for point in way[::2]:
                predicted = self._predict(prompt, point.noisy, point.timestep)
                moved += float((predicted - point.predicted).square().sum())
                size += float(point.predicted.square().sum())
        return moved / size

    def _walk(self, prompt: str, noisy: Tensor, pause: Callable[[], None]) -> list[_Point]:
        schedule = self._denoiser.schedule
        total = schedule.timesteps
        timesteps = [int((n + 0.5) / WAY_STEPS * total) for n in reversed(range(WAY_STEPS))]
        way: list[_Point] = []
        for timestep, following in zip(timesteps, [*timesteps[1:], None], strict=True):
            pause()
            predicted = self._predict(prompt, noisy, timestep)
            way.append(_Point(noisy, timestep, predicted))
            if following is None:
                break
            kept = schedule.alphas_cumprod[timestep].clamp(min=_LEAST_SIGNAL)
            after = schedule.alphas_cumprod[following]
            if schedule.prediction == "epsilon":
                noise = predicted
                picture = (noisy - (1 - kept).sqrt() * noise) / kept.sqrt()
            else:
                picture = kept.sqrt() * noisy - (1 - kept).sqrt() * predicted
                noise = kept.sqrt() * predicted + (1 - kept).sqrt() * noisy
            noisy = after.sqrt() * picture + (1 - after).sqrt() * noise
        return way

    @torch.no_grad()
    def _predict(self, prompt: str, noisy: Tensor, timestep: int) -> Tensor:
        unet = self._denoiser.unet
        was_training = unet.training
        unet.eval()
        steps = torch.tensor([timestep], device=noisy.device)
        answer = self._denoiser.predict(noisy, steps, [prompt], self._time_ids).float()
        unet.train(was_training)
        return answer
