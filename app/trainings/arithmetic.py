"""How pictures fall into buckets, and how many steps that makes.

Pure arithmetic, shared by the API (which predicts) and the trainer (which does), so that both
always agree. Buckets and batches are counted as kohya's sd-scripts counts them.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from app.trainings.params import TrainingParams

# Below this many images every one is worth more as a lesson than as an exam.
MIN_IMAGES_TO_HOLD_OUT = 8


@dataclass(frozen=True)
class ImageSize:
    """What the arithmetic needs to know of an image; `repeats` None leaves it to the run."""

    width: int
    height: int
    repeats: int | None
    sha256: str
    # A class picture for prior preservation.
    regularization: bool = False


@dataclass(frozen=True)
class BucketPlan:
    """Which sizes, in pixels, a run may use.

    Attributes:
        resolution: side of the square whose area no bucket exceeds.
        min_side, max_side: shortest and longest side of a bucket.
        step: every side is a multiple of it.
    """

    resolution: int
    min_side: int
    max_side: int
    step: int

    @classmethod
    def for_base(cls, resolution: int, vae_scale_factor: int) -> "BucketPlan":
        """kohya's 256 to 2048 in steps of 64 for SDXL's sizes; in proportion for small bases.

        The step must divide by the VAE's factor and twice by two, for the UNet's two halvings.
        """
        if resolution >= 512:
            return cls(resolution, 256, 2048, 64)
        return cls(resolution, resolution // 2, resolution * 2, vae_scale_factor * 4)

    def sizes(self) -> list[tuple[int, int]]:
        """Every bucket as (width, height), by width then height; the square is always among them.

        Widths go from `min_side` in steps; the height is the largest multiple of the step that
        keeps the area within resolution², at most `max_side`; each is there turned as well.
        """
        area = self.resolution**2
        square = self.resolution // self.step * self.step
        found = {(square, square)}
        for width in range(self.min_side, self.max_side + 1, self.step):
            height = min(self.max_side, area // width // self.step * self.step)
            if height >= self.min_side:
                found |= {(width, height), (height, width)}
        return sorted(found)

    def nearest(self, width: int, height: int) -> tuple[int, int]:
        """The bucket whose aspect ratio is nearest to that of a picture."""
        ratio = width / height
        return min(self.sizes(), key=lambda size: (abs(size[0] / size[1] - ratio), size))


@dataclass(frozen=True)
class StepPlan:
    """What a run will do.

    Attributes:
        held_out: positions of the images kept for validation, ascending.
        buckets: how many image passes an epoch has in each (width, height).
        steps_per_epoch, total_steps: optimizer steps.
    """

    held_out: tuple[int, ...]
    buckets: dict[tuple[int, int], int]
    batches_per_epoch: int
    steps_per_epoch: int
    total_steps: int


def held_out(images: Sequence[ImageSize], params: TrainingParams) -> tuple[int, ...]:
    """Which images validate instead of train: a choice of (seed, image), whatever the order."""
    if params.validation_fraction == 0 or len(images) < MIN_IMAGES_TO_HOLD_OUT:
        return ()
    count = max(1, round(len(images) * params.validation_fraction))

    def rank(position: int) -> str:
        return hashlib.sha256(f"{params.seed}:{images[position].sha256}".encode()).hexdigest()

    return tuple(sorted(sorted(range(len(images)), key=rank)[:count]))


def plan_steps(images: Sequence[ImageSize], params: TrainingParams, plan: BucketPlan) -> StepPlan:
    """Count the steps of a run on one device.

    Batches an epoch are Σ over buckets of ceil(Σ repeats / batch_size), ragged last batches kept;
    steps are epochs × ceil(batches / gradient_accumulation), at most `max_steps`.
    """
    kept_back = held_out(images, params)
    buckets: Counter[tuple[int, int]] = Counter()
    for position, image in enumerate(images):
        if position not in kept_back:
            size = plan.nearest(image.width, image.height)
            buckets[size] += image.repeats or params.num_repeats
    batches = sum(math.ceil(passes / params.batch_size) for passes in buckets.values())
    steps = math.ceil(batches / params.gradient_accumulation)
    total = steps * params.epochs
    if params.max_steps is not None:
        total = min(total, params.max_steps)
    return StepPlan(
        held_out=kept_back,
        buckets=dict(sorted(buckets.items())),
        batches_per_epoch=batches,
        steps_per_epoch=steps,
        total_steps=total,
    )
