"""The registry of workers: they report, operators look and give orders."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.database import utc_now
from app.errors import NotFound
from app.jobs.models import Job
from app.settings import get_settings
from app.workers.models import Order, Worker

# One that has been silent for so long is no longer listed.
FORGOTTEN_AFTER = timedelta(days=1)
MOST_LISTED = 1000


@dataclass(frozen=True)
class Report:
    """What a worker process says of itself.

    Attributes:
        device: its GPU's name; None while none is in use.
        gpu_memory_bytes, gpu_memory_free_bytes: of that GPU, by all its processes.
    """

    id: str
    queues: tuple[str, ...]
    version: str
    started_at: datetime
    device: str | None = None
    gpu_memory_bytes: int | None = None
    gpu_memory_free_bytes: int | None = None


def report(session: Session, told: Report) -> Order | None:
    """Write down that a worker lives, and tell it what it is ordered to do."""
    values = {**vars(told), "queues": list(told.queues), "heartbeat_at": func.now()}
    order: Order | None = session.scalar(
        insert(Worker)
        .values(values)
        .on_conflict_do_update(index_elements=["id"], set_=values)
        .returning(Worker.order)
    )
    return order


def leave(session: Session, worker_id: str) -> None:
    """A worker has ended in good order."""
    session.execute(delete(Worker).where(Worker.id == worker_id))


def everyone(session: Session) -> list[Worker]:
    """All that are known, those that are silent included, by id."""
    return list(session.scalars(select(Worker).order_by(Worker.id).limit(MOST_LISTED)))


def held_jobs(session: Session) -> dict[str, list[str]]:
    """The running jobs of each worker."""
    found: dict[str, list[str]] = {}
    rows = session.execute(
        select(Job.worker_id, Job.id).where(Job.status == "running").order_by(Job.id)
    )
    for worker_id, job_id in rows:
        found.setdefault(worker_id or "", []).append(job_id)
    return found


def is_silent(worker: Worker) -> bool:
    """Whether it has not been heard of for a lease: its jobs are no longer its own."""
    return utc_now() - worker.heartbeat_at > timedelta(seconds=get_settings().lease_seconds)


def give_order(session: Session, worker_id: str, order: Order | None) -> Worker:
    """Have a worker hold, hand back, or go on (None); it hears of it with its next heartbeat.

    Raises:
        NotFound: there is no such worker.
    """
    worker = session.get(Worker, worker_id, with_for_update=True)
    if worker is None:
        raise NotFound(f"No worker {worker_id}")
    if worker.order != order:
        changes = {"order": [worker.order, order]}
        worker.order = order
        session.flush()
        audit.record(session, "worker.order", worker_id, account_id=None, changes=changes)
    return worker


def forget_silent(session: Session) -> int:
    """Forget the workers that have long been silent; how many."""
    silent = delete(Worker).where(Worker.heartbeat_at < func.now() - FORGOTTEN_AFTER)
    return len(session.scalars(silent.returning(Worker.id)).all())
