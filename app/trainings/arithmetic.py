"""How pictures fall into buckets, and how many steps that makes.

Pure arithmetic, shared by the API (which predicts) and the trainer (which does), so that both
always agree. Buckets and batches are counted as kohya's sd-scripts counts them.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from app.trainings.params import TrainingParams

# From this many images on a fixed part is held out; below, a part that changes every epoch, so
# that every image teaches; below the smaller number each is worth more as a lesson than an exam.
MIN_IMAGES_TO_HOLD_OUT = 20
MIN_IMAGES_TO_ROTATE = 4


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
        no_upscale: whether pictures smaller than that area keep their own size.
    """

    resolution: int
    min_side: int
    max_side: int
    step: int
    no_upscale: bool = False

    @classmethod
    def for_base(cls, params: TrainingParams, vae_scale_factor: int) -> "BucketPlan":
        """kohya's 256 to 2048 in steps of 64 for SDXL's sizes; in proportion for small bases.

        Raises:
            ValueError: the parameters' step or sides cannot be.
        """
        resolution = params.resolution
        # The UNet halves the latents twice.
        finest = vae_scale_factor * 4
        large = resolution >= 512
        step = params.bucket_step_px or (64 if large else finest)
        if step % finest:
            raise ValueError(f"bucket_step_px is {step}; this base needs multiples of {finest}")
        min_side = params.min_bucket_px or (256 if large else resolution // 2)
        max_side = params.max_bucket_px or (2048 if large else resolution * 2)
        if not min_side <= resolution // step * step <= max_side:
            raise ValueError(
                f"buckets go from min_bucket_px {min_side} to max_bucket_px {max_side} in steps "
                f"of {step}, which leaves out the square of resolution {resolution}"
            )
        return cls(resolution, min_side, max_side, step, params.no_upscale)

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
        """The bucket whose aspect ratio is nearest to that of a picture.

        With `no_upscale`, as sd-scripts does it: a picture of no more than resolution² gets its
        own size, cut to whole steps; a larger one is shrunk to that area along the side whose
        rounding changes its ratio least.
        """
        ratio = width / height
        if self.no_upscale:
            return self._own(width, height)
        return min(self.sizes(), key=lambda size: (abs(size[0] / size[1] - ratio), size))

    def _own(self, width: int, height: int) -> tuple[int, int]:
        ratio, area = width / height, self.resolution**2
        if width * height > area:
            by_width = self._whole(math.sqrt(area * ratio))
            by_height = self._whole(math.sqrt(area / ratio))
            as_wide = by_width / max(1, self._whole(by_width / ratio))
            as_high = self._whole(by_height * ratio) / max(1, by_height)
            if abs(as_wide - ratio) < abs(as_high - ratio):
                width, height = by_width, int(by_width / ratio + 0.5)
            else:
                width, height = int(by_height * ratio + 0.5), by_height
        return self._side(width), self._side(height)

    def _whole(self, side: float) -> int:
        return int(side + 0.5) // self.step * self.step

    def _side(self, side: int) -> int:
        return min(self.max_side, max(self.step, side // self.step * self.step))


@dataclass(frozen=True)
class StepPlan:
    """What a run will do.

    Attributes:
        placed: the bucket, (width, height), of each image.
        folds: positions of images kept for validation. One fold is held out of every epoch;
            of several, epoch e (from 0) holds out fold e mod their number. None: nothing is.
        steps_by_fold: optimizer steps of an epoch that holds out each fold; one number without.
        total_steps: optimizer steps of the whole run.
    """

    images: tuple[ImageSize, ...]
    num_repeats: int
    batch_size: int
    placed: tuple[tuple[int, int], ...]
    folds: tuple[tuple[int, ...], ...]
    steps_by_fold: tuple[int, ...]
    total_steps: int

    @property
    def steps_per_epoch(self) -> int:
        """Of the first epoch; others differ only where hold-outs rotate."""
        return self.steps_by_fold[0]

    @property
    def rotates(self) -> bool:
        """Whether each epoch holds out other images."""
        return len(self.folds) > 1

    def held_out(self, epoch: int) -> tuple[int, ...]:
        """Positions of the images that an epoch (from 0) does not show, ascending."""
        return self.folds[epoch % len(self.folds)] if self.folds else ()

    def buckets(self, epoch: int) -> dict[tuple[int, int], list[int]]:
        """For each (width, height), the images an epoch shows, one entry for each pass."""
        return _buckets(self.images, self.placed, self.num_repeats, self.held_out(epoch))

    def locate(self, step: int) -> tuple[int, int]:
        """The epoch (from 0) that holds a step (from 0), and the step's number in it."""
        cycle = sum(self.steps_by_fold)
        epochs, within = divmod(step, cycle)
        epoch = epochs * len(self.steps_by_fold)
        for steps in self.steps_by_fold:
            if within < steps:
                break
            within -= steps
            epoch += 1
        return epoch, within


def held_out_folds(
    images: Sequence[ImageSize], params: TrainingParams
) -> tuple[tuple[int, ...], ...]:
    """Which images validate instead of train: a choice of (seed, image), whatever the order."""
    subjects = [number for number, image in enumerate(images) if not image.regularization]
    count = len(subjects)
    if params.validation_fraction == 0 or count < MIN_IMAGES_TO_ROTATE:
        return ()

    def rank(position: int) -> str:
        return hashlib.sha256(f"{params.seed}:{images[position].sha256}".encode()).hexdigest()

    ranked = sorted(subjects, key=rank)
    kept = max(1, round(count * params.validation_fraction))
    if count >= MIN_IMAGES_TO_HOLD_OUT:
        return (tuple(sorted(ranked[:kept])),)
    folds = count // kept
    return tuple(tuple(sorted(ranked[fold::folds])) for fold in range(folds))


def plan_steps(
    images: Sequence[ImageSize], params: TrainingParams, plan: BucketPlan, processes: int = 1
) -> StepPlan:
    """Count the steps of a run.

    Batches an epoch are Σ over buckets of ceil(passes / (batch_size × processes)), ragged last
    ones kept; an epoch's steps are ceil(batches / gradient_accumulation); `max_steps` cuts the sum.

    Args:
        processes: how many devices train together, each on `batch_size` pictures at once.
    """
    folds = held_out_folds(images, params)
    # Pictures of a set are often of a few sizes.
    nearest = cache(plan.nearest)
    placed = tuple(nearest(image.width, image.height) for image in images)
    batch_size = params.batch_size * processes
    steps = tuple(
        _steps(_buckets(images, placed, params.num_repeats, kept_back), batch_size, params)
        for kept_back in folds or ((),)
    )
    total = sum(steps[epoch % len(steps)] for epoch in range(params.epochs))
    if params.max_steps is not None:
        total = min(total, params.max_steps)
    return StepPlan(
        images=tuple(images),
        num_repeats=params.num_repeats,
        batch_size=batch_size,
        placed=placed,
        folds=folds,
        steps_by_fold=steps,
        total_steps=total,
    )


def _buckets(
    images: Sequence[ImageSize],
    placed: Sequence[tuple[int, int]],
    num_repeats: int,
    held_out: Sequence[int],
) -> dict[tuple[int, int], list[int]]:
    kept_back = set(held_out)
    shown = [number for number in range(len(images)) if number not in kept_back]
    subjects = [number for number in shown if not images[number].regularization]
    others = [number for number in shown if images[number].regularization]
    passes = {number: images[number].repeats or num_repeats for number in subjects}
    if others:
        # As many passes of the class as of the subject, spread evenly over its pictures.
        each, more = divmod(sum(passes.values()), len(others))
        passes |= {number: each + (place < more) for place, number in enumerate(others)}
    found: dict[tuple[int, int], list[int]] = {}
    for number in shown:
        found.setdefault(placed[number], []).extend([number] * passes[number])
    return {size: numbers for size, numbers in sorted(found.items()) if numbers}


def _steps(
    buckets: dict[tuple[int, int], list[int]], batch_size: int, params: TrainingParams
) -> int:
    batches = sum(math.ceil(len(numbers) / batch_size) for numbers in buckets.values())
    return math.ceil(batches / params.gradient_accumulation)
