"""What a person should know before the first step: what will happen, and what has no effect."""

from app.trainings.arithmetic import MIN_IMAGES_TO_ROTATE, StepPlan
from app.trainings.params import TrainingParams
from worker.ml.training.spec import TrainingSpec


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


def without_effect(spec: TrainingSpec) -> list[str]:
    """A sentence for each parameter that changes nothing in this run."""
    params = spec.params
    found: list[str] = []
    if params.validation_fraction > 0 and len(spec.images) < MIN_IMAGES_TO_ROTATE:
        found.append(
            f"validation_fraction has no effect: {len(spec.images)} pictures are fewer than "
            f"{MIN_IMAGES_TO_ROTATE}, so none is held out"
        )
    if params.shuffle_caption and not any(_shuffles(spec, image.caption) for image in spec.images):
        found.append(
            f"shuffle_caption has no effect: no caption has two parts or more, parted by commas, "
            f"after the first {params.keep_tokens}"
        )
    if params.caption_dropout_rate == 1:
        found.append("captions have no effect: caption_dropout_rate is 1")
    return found


def _shuffles(spec: TrainingSpec, caption: str) -> bool:
    parts = [part.strip() for part in caption.split(",")][spec.params.keep_tokens :]
    return len(set(parts)) > 1
