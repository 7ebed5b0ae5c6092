"""Loss on held-out pictures, on noise and timesteps that never change, so that runs compare."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from worker.ml.training.latents import LatentImage
from worker.ml.training.objective import NoiseSchedule
from worker.ml.training.sampling import noise_for
from worker.ml.training.text import TextEmbedding

# One timestep from the middle of each quarter of the schedule, a stratified sample.
STRATA = 4
NOISE_SEED = 0


@dataclass(frozen=True)
class ValidationSet:
    """Held-out pictures with their captions as written."""

    images: Sequence[LatentImage]
    texts: Sequence[TextEmbedding]

    def __bool__(self) -> bool:
        return bool(self.images)


@torch.no_grad()
def validation_loss(
    unet: nn.Module,
    held_out: ValidationSet,
    schedule: NoiseSchedule,
    device: torch.device,
    dtype: torch.dtype,
    arithmetic: Callable[[], AbstractContextManager[Any]],
    pause: Callable[[], None],
) -> float:
    """Mean squared error over pictures and strata, unweighted; lower is better.

    Args:
        arithmetic: the context that the UNet computes in.
        pause: called between pictures; what it raises ends the measurement.
    """
    was_training = unet.training
    unet.eval()
    errors: list[Tensor] = []
    for stratum in range(STRATA):
        timestep = int((stratum + 0.5) / STRATA * schedule.timesteps)
        for number, (image, text) in enumerate(zip(held_out.images, held_out.texts, strict=True)):
            pause()
            latents = image.variants[:1].to(device)
            noise = noise_for(latents.shape, NOISE_SEED, number * STRATA + stratum, 0.0).to(device)
            timesteps = torch.full((1,), timestep, device=device)
            with arithmetic():
                predicted = unet(
                    schedule.add_noise(latents, noise, timesteps).to(dtype),
                    timesteps,
                    encoder_hidden_states=text.tokens.unsqueeze(0).to(device, dtype),
                    added_cond_kwargs={
                        "text_embeds": text.pooled.unsqueeze(0).to(device, dtype),
                        "time_ids": torch.tensor([image.time_ids], device=device),
                    },
                    return_dict=False,
                )[0]
            target = schedule.target(latents, noise, timesteps)
            errors.append((predicted.float() - target).square().mean())
    unet.train(was_training)
    return float(torch.stack(errors).mean())
