"""What a job would take, told without making one: measured on jobs like it that have ended."""

from collections.abc import Sequence
from statistics import median
from typing import Literal

from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.broker import Queue
from app.database import new_id, utc_now
from app.jobs import service
from app.jobs.models import Job
from app.jobs.schemas import QueuePlace


class Forecast(BaseModel):
    """The answer to `dry_run`. What no job like it has measured yet is null."""

    object: Literal["forecast"] = "forecast"
    steps: int
    # From its start to its end, when nothing else runs with it.
    predicted_seconds: float | None
    gpu_seconds: float | None
    memory_bytes: int | None
    queue: QueuePlace
    warnings: list[str]


def rate(measured: Sequence[tuple[float, float]]) -> float | None:
    """Seconds for each unit of work: the median of (seconds, units) of jobs that have ended."""
    rates = [seconds / units for seconds, units in measured if seconds > 0 and units > 0]
    return median(rates) if rates else None


def place(
    session: Session, account_id: str, queue: Queue, measured_seconds: Sequence[float]
) -> QueuePlace:
    """Where a job that came now would wait, and for how long if the others take the median."""
    job = Job(
        id=new_id("job"),
        queue=queue,
        account_id=account_id,
        priority=0,
        status="queued",
        created_at=utc_now(),
    )
    position = service.position_in_queue(session, job) or 0
    running = session.scalar(
        select(func.count()).where(Job.status == "running", Job.queue == queue)
    )
    eta = None
    if position == 0:
        eta = 0.0
    elif measured_seconds:
        eta = position * median(measured_seconds) / max(1, running or 0)
    return QueuePlace(position=position, eta_s=None if eta is None else round(eta, 1))
