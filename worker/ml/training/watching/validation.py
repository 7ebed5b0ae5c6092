"""Loss on held-out pictures, on noise and timesteps that never change, so that runs compare."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from worker.ml.training.data.latents import LatentImage
from worker.ml.training.sampling import noise_for
from worker.ml.training.step import Denoiser

# One timestep from the middle of each quarter of the schedule, a stratified sample.
STRATA = 4
NOISE_SEED = 0


@torch.no_grad()
def validation_loss(
    denoiser: Denoiser,
    pictures: Sequence[tuple[int, LatentImage, str]],
    device: torch.device,
    batch_size: int,
    pause: Callable[[], None],
) -> float:
    """Mean squared error over pictures and strata, unweighted; lower is better.

    Args:
        pictures: each with its number, which decides its noise, and its caption as written.
        batch_size: how many noisy pictures the UNet sees at once.
        pause: called between pictures; what it raises ends the measurement.
    """
    was_training = denoiser.unet.training
    denoiser.unet.eval()
    total = denoiser.schedule.timesteps
    strata = torch.tensor([int((n + 0.5) / STRATA * total) for n in range(STRATA)], device=device)
    errors: list[Tensor] = []
    try:
        for number, image, text in pictures:
            pause()
            latents = image.variants[:1].to(device).expand(STRATA, -1, -1, -1)
            noise = noise_for(latents.shape, NOISE_SEED, number).to(device)
            time_ids = image.time_ids[:1].to(device).expand(STRATA, -1)
            for start in range(0, STRATA, batch_size):
                part = slice(start, start + batch_size)
                timesteps = strata[part]
                noisy = denoiser.schedule.add_noise(latents[part], noise[part], timesteps)
                texts = [text] * len(timesteps)
                predicted = denoiser.predict(noisy, timesteps, texts, time_ids[part])
                target = denoiser.schedule.target(latents[part], noise[part], timesteps)
                errors.append((predicted.float() - target).square().mean(dim=(1, 2, 3)))
    finally:
        denoiser.unet.train(was_training)
    return float(torch.cat(errors).mean())
