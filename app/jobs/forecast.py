"""What a job would take, told without making one: measured on jobs like it that have ended."""

from collections.abc import Sequence
from statistics import median
from typing import Literal

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.broker import Queue
from app.database import new_id, utc_now
from app.jobs.models import Job
from app.jobs.schemas import QueuePlace, place_of


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


def place(session: Session, account_id: str, queue: Queue) -> QueuePlace:
    """Where a job that came now would wait, and for about how long."""
    job = Job(
        id=new_id("job"),
        queue=queue,
        account_id=account_id,
        priority=0,
        status="queued",
        created_at=utc_now(),
    )
    found = place_of(session, job)
    assert found is not None, "the job is queued"
    return found
