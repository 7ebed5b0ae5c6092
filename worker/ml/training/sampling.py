"""Every random choice of a training, as a pure function of the seed and where in the run it is.

No generator outlives its call, so a run resumed at any step chooses exactly what it would have
chosen. Everything is drawn on the CPU: another device draws the same.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def generator_for(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A fresh CPU generator for one choice, e.g. ("noise", 120)."""
    text = ":".join([str(seed), purpose, *map(str, position)])
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)


def epoch_batches(
    buckets: Mapping[tuple[int, int], Sequence[int]], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of an epoch: each of one bucket, ragged last ones kept, all in random order.

    Args:
        buckets: for each (width, height), the images' numbers, one entry for each repeat.
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


def noise_for(shape: Sequence[int], seed: int, micro_step: int, offset: float) -> Tensor:
    """Gaussian noise (B, C, h, w), float32, on the CPU.

    `offset` adds a constant to each channel of each image, drawn from N(0, offset²), which lets
    a model learn pictures darker or lighter than the middle (Guttenberg 2023).
    """
    generator = generator_for(seed, "noise", micro_step)
    noise = torch.randn(*shape, generator=generator)
    if offset:
        noise = noise + offset * torch.randn(shape[0], shape[1], 1, 1, generator=generator)
    return noise


def timesteps_for(count: int, seed: int, micro_step: int, total: int) -> Tensor:
    """Timesteps (B,), int64, uniform over 0..total-1."""
    return torch.randint(total, (count,), generator=generator_for(seed, "timesteps", micro_step))


def caption_choice(
    count: int, variants: int, dropout_rate: float, seed: int, micro_step: int
) -> list[int | None]:
    """For each image, which variant of its caption to use; None is the empty caption."""
    generator = generator_for(seed, "captions", micro_step)
    dropped = torch.rand(count, generator=generator) < dropout_rate
    chosen = torch.randint(variants, (count,), generator=generator)
    return [
        None if drop else int(variant)
        for drop, variant in zip(dropped.tolist(), chosen.tolist(), strict=True)
    ]


def flip_choice(count: int, seed: int, micro_step: int) -> list[bool]:
    """For each image, whether to mirror it."""
    flips = torch.rand(count, generator=generator_for(seed, "flips", micro_step)) < 0.5
    return [bool(flip) for flip in flips.tolist()]


def shuffled_captions(caption: str, variants: int, keep_tokens: int, seed: int) -> list[str]:
    """Orders of a caption's comma-separated tokens, the first `keep_tokens` in place.

    The first variant is the caption as written. A caption with nothing to shuffle gives as many
    copies of itself, so that every image has the same number of variants.
    """
    tokens = [token.strip() for token in caption.split(",")]
    fixed, rest = tokens[:keep_tokens], tokens[keep_tokens:]
    number = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:4], "big")
    found = [", ".join(tokens)]
    for variant in range(1, variants):
        order = torch.randperm(len(rest), generator=generator_for(seed, "shuffle", number, variant))
        found.append(", ".join([*fixed, *(rest[position] for position in order.tolist())]))
    return found
