"""Every random choice of a training, as a pure function of the seed and where in the run it is.

No generator outlives its call, so a run resumed at any step chooses exactly what it would have
chosen. Everything is drawn on the CPU, so that another device draws the same, and for the batch
of all devices together, of which each takes its part: two devices draw what one would.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from app.trainings.params import TrainingParams


def generator_for(seed: int, purpose: str, *position: int | str) -> torch.Generator:
    """A fresh CPU generator for one choice, e.g. ("noise", 120)."""
    return torch.Generator().manual_seed(number_for(seed, purpose, *position))


def number_for(seed: int, purpose: str, *position: int | str) -> int:
    """A number below 2⁶³ for one choice, to seed what has a generator of its own."""
    text = ":".join([str(seed), purpose, *map(str, position)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def epoch_batches(
    buckets: Mapping[tuple[int, int], Sequence[int]], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of an epoch: each of one bucket, ragged last ones kept, all in random order.

    Args:
        buckets: for each (width, height), the images' numbers, one entry for each repeat.
        batch_size: of all devices together.
    """
    batches: list[list[int]] = []
    for number, (_, images) in enumerate(sorted(buckets.items())):
        order = torch.randperm(len(images), generator=generator_for(seed, "images", epoch, number))
        shuffled = [images[position] for position in order.tolist()]
        batches += [
            shuffled[start : start + batch_size] for start in range(0, len(shuffled), batch_size)
        ]
    order = torch.randperm(len(batches), generator=generator_for(seed, "batches", epoch))
    return [batches[position] for position in order.tolist()]


def noise_for(
    shape: Sequence[int], seed: int, micro_step: int, params: TrainingParams | None = None
) -> Tensor:
    """Gaussian noise (B, C, h, w), float32, on the CPU; None draws it plain.

    `noise_offset` adds a constant to each channel of each image, drawn from N(0, offset²), which
    lets a model learn pictures darker or lighter than the middle (Guttenberg 2023).
    `multires_noise_iterations` adds octaves of coarser noise, each `multires_noise_discount` times
    the one before, and brings the sum back to variance 1 (Whitaker 2023).
    """
    generator = generator_for(seed, "noise", micro_step)
    noise = torch.randn(*shape, generator=generator)
    if params is None:
        return noise
    if params.multires_noise_iterations:
        noise = _with_octaves(noise, generator, params)
    if params.noise_offset:
        noise = noise + params.noise_offset * torch.randn(*shape[:2], 1, 1, generator=generator)
    return noise


def _with_octaves(noise: Tensor, generator: torch.Generator, params: TrainingParams) -> Tensor:
    height, width = noise.shape[2:]
    for octave in range(1, params.multires_noise_iterations + 1):
        # Between two and four times coarser each time, so that no size is favoured.
        ratio = float(2 + 2 * torch.rand(1, generator=generator)) ** octave
        size = (max(1, int(height / ratio)), max(1, int(width / ratio)))
        coarse = torch.randn(*noise.shape[:2], *size, generator=generator)
        grown = interpolate(coarse, (height, width), mode="bilinear")
        noise = noise + grown * params.multires_noise_discount**octave
        if min(size) == 1:
            break
    # By image, so that no picture's noise depends on its batch.
    return noise / noise.std(dim=(1, 2, 3), keepdim=True)


def timesteps_for(
    count: int, seed: int, micro_step: int, total: int, params: TrainingParams | None = None
) -> Tensor:
    """Timesteps (B,), int64, uniform over 0..total-1 or as the parameters limit and bias them.

    The bias b moves the uniform draw u to sigmoid(logit(u) + b): a logistic distribution's shift,
    above 0 towards the noisy end.
    """
    draw = torch.rand(
        count, generator=generator_for(seed, "timesteps", micro_step), dtype=torch.float64
    )
    first, end = 0, total
    if params is not None:
        first, end = params.min_timestep, min(total, params.max_timestep or total)
        if params.timestep_bias:
            draw = torch.sigmoid(torch.logit(draw, eps=1e-9) + params.timestep_bias)
    return (first + (draw * (end - first)).long()).clamp(max=end - 1)


def choices_for(count: int, purpose: str, seed: int, micro_step: int) -> list[float]:
    """For each image a number in 0..1 that makes one choice, e.g. which caption is shown."""
    drawn = torch.rand(count, generator=generator_for(seed, purpose, micro_step))
    return [float(value) for value in drawn.tolist()]
