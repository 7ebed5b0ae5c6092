"""What a person should know before the first step: what will happen, and what has no effect.

The sentences are `app.trainings.advice`'s, which the API shows too.
"""

from pathlib import PurePath

from app.trainings import without_effect as vain
from app.trainings.arithmetic import BucketPlan, StepPlan, plan_steps
from app.trainings.params import TrainingParams
from app.trainings.planned import Picture, Run
from worker.ml.training.spec import ImageSpec, TrainingSpec

OPAQUE_SUFFIXES = frozenset({".jpg", ".jpeg"})


def describe(steps: StepPlan, params: TrainingParams) -> str:
    """The run in one sentence."""
    buckets = ", ".join(f"{width}x{height}: {n}" for (width, height), n in steps.buckets.items())
    return (
        f"{steps.total_steps} steps, {steps.steps_per_epoch} an epoch, of "
        f"{params.batch_size * params.gradient_accumulation} pictures; an epoch shows {buckets}; "
        f"{len(steps.held_out)} pictures are held out"
    )


def without_effect(spec: TrainingSpec) -> list[str]:
    """A sentence for each parameter that changes nothing in this run."""
    base = spec.base_model
    steps = plan_steps(
        [image.size for image in spec.images],
        spec.params,
        BucketPlan.for_base(spec.params.resolution, base.vae_scale_factor),
    )
    run = run_of(spec, total_steps=steps.total_steps, held_out=len(steps.held_out))
    return vain.without_effect(run)


def run_of(spec: TrainingSpec, *, total_steps: int, held_out: int) -> Run:
    """A spec as the advice takes it.

    Args:
        held_out: pictures of the subject that an epoch keeps for validation.
    """
    return Run(
        params=spec.params,
        pictures=[_picture(image) for image in spec.images],
        total_steps=total_steps,
        held_out=held_out,
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
