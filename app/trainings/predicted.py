"""How long a run would take and what memory it would need, from what such runs really took.

Nothing is guessed: without a finished training of the same base model and resolution on this
installation there is no prediction.
"""

from dataclasses import dataclass

from sqlalchemy import Integer, func, select
from sqlalchemy.orm import Session

from app.jobs.models import Job
from app.trainings.models import Training, TrainingMetric
from app.trainings.params import TrainingParams

# The newest so many tell of the machines as they are now.
TRAININGS = 10


@dataclass(frozen=True)
class Prediction:
    """What a run would take.

    Attributes:
        seconds: of its steps, without loading and preparing; None: unknown.
        memory_bytes: of the device, at the peak; None: unknown.
        trainings: how many finished ones this rests on.
    """

    seconds: float | None
    memory_bytes: int | None
    trainings: int


def predict(
    session: Session, base_model: str, params: TrainingParams, total_steps: int
) -> Prediction:
    """The mean speed and the highest peak of the newest trainings like this one."""
    like = (
        select(Training.id)
        .join(Job, Job.id == Training.id)
        .where(
            Training.base_model == base_model,
            Training.spec["params"]["resolution"].astext.cast(Integer) == params.resolution,
            Job.status == "succeeded",
        )
        .order_by(Job.ended_at.desc())
        .limit(TRAININGS)
        .subquery()
    )
    speed, memory, trainings = session.execute(
        select(
            func.avg(TrainingMetric.images_per_second),
            func.max(TrainingMetric.memory_bytes),
            func.count(TrainingMetric.training_id.distinct()),
        ).where(
            TrainingMetric.training_id.in_(select(like.c.id)),
            TrainingMetric.images_per_second > 0,
        )
    ).one()
    shown = total_steps * params.batch_size * params.gradient_accumulation
    return Prediction(
        seconds=round(shown / float(speed), 1) if speed else None,
        memory_bytes=memory,
        trainings=trainings,
    )
