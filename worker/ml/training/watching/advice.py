"""What a person should know before the first step: what will happen, and what has no effect.

The sentences are `app.trainings.advice`'s, which the API shows too.
"""

from pathlib import PurePath

from app.trainings.advice import advise
from app.trainings.arithmetic import StepPlan
from app.trainings.params import TrainingParams
from app.trainings.planned import Picture, Run
from worker.ml.training.spec import ImageSpec, TrainingSpec

OPAQUE_SUFFIXES = frozenset({".jpg", ".jpeg"})


def describe(steps: StepPlan, params: TrainingParams, processes: int) -> str:
    """The run in one sentence."""
    buckets = ", ".join(
        f"{width}x{height}: {len(numbers)}" for (width, height), numbers in steps.buckets(0).items()
    )
    held_out = f"{len(steps.held_out(0))} pictures are held out"
    if steps.rotates:
        held_out += ", others in each epoch"
    return (
        f"{steps.total_steps} steps, {steps.steps_per_epoch} an epoch, of "
        f"{steps.batch_size * params.gradient_accumulation} pictures on {processes} "
        f"device{'s' * (processes > 1)}; an epoch shows {buckets}; {held_out}"
    )


def advice(spec: TrainingSpec, steps: StepPlan) -> list[str]:
    """A sentence for each doubt about a run."""
    return advise(run_of(spec, steps))


def run_of(spec: TrainingSpec, steps: StepPlan) -> Run:
    """A spec as the advice takes it."""
    return Run(
        params=spec.params,
        pictures=[_picture(image) for image in spec.images],
        total_steps=steps.total_steps,
        pictures_per_step=steps.batch_size * spec.params.gradient_accumulation,
        held_out=len(steps.held_out(0)),
        trigger_word=spec.trigger_word,
    )


def _picture(image: ImageSpec) -> Picture:
    return Picture(
        caption=image.caption,
        captioned=bool(image.caption.strip()),
        repeats=image.repeats,
        regularization=image.regularization,
        sha256=image.sha256,
        opaque=PurePath(image.path).suffix.lower() in OPAQUE_SUFFIXES,
        own_captions=image.captions is not None,
        random_crop=image.random_crop,
    )
