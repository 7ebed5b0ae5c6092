"""What a training would take: its steps by arithmetic, its time and memory by those before it."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.database import JsonObject
from app.isolation import ACROSS_ACCOUNTS
from app.jobs.forecast import Forecast, place, rate
from app.jobs.models import Job
from app.trainings.freeze import Frozen
from app.trainings.models import Training, TrainingMetric

# Trainings that are looked at, the newest first.
RECENT = 200
# What decides the memory, the base model apart.
_SHAPE = (
    *("variant", "rank", "target", "train_text_encoder", "optimizer", "batch_size", "resolution"),
    *("mixed_precision", "gradient_checkpointing", "base_storage", "cache_placement"),
)


def forecast(session: Session, account_id: str, frozen: Frozen) -> Forecast:
    """What a frozen training would take if it were queued now."""
    spec = frozen.spec
    newest = select(Training.id).order_by(Training.id.desc()).limit(RECENT)
    rows = session.execute(
        select(Training.id, Training.base_model, Training.spec, Job.gpu_seconds)
        .join(Job, Job.id == Training.id)
        .where(Training.id.in_(newest), Training.retry_of.is_(None), Job.status == "succeeded"),
        # How long it takes does not depend on whose it is; nothing else of them is told.
        execution_options=ACROSS_ACCOUNTS,
    ).all()
    alike = [row for row in rows if row.base_model == spec["base_model"]]
    per_unit = rate([(row.gpu_seconds, _work(row.spec)) for row in alike])
    seconds = None if per_unit is None else round(per_unit * _work(spec), 1)
    same = [row.id for row in alike if _shape(row.spec) == _shape(spec)]
    memory = session.scalar(
        select(func.max(TrainingMetric.memory_bytes)).where(TrainingMetric.training_id.in_(same)),
        execution_options=ACROSS_ACCOUNTS,
    )
    return Forecast(
        steps=spec["total_steps"],
        predicted_seconds=seconds,
        gpu_seconds=seconds,
        memory_bytes=memory,
        queue=place(session, account_id, "train"),
        warnings=frozen.warnings,
    )


def _work(spec: JsonObject) -> float:
    """Pixels that go through the network in all."""
    params = spec["params"]
    pictures = spec["total_steps"] * params["batch_size"] * params["gradient_accumulation"]
    return float(pictures * params["resolution"] ** 2)


def _shape(spec: JsonObject) -> list[object]:
    return [spec["params"].get(name) for name in _SHAPE]
