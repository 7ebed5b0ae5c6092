"""What the API asks of a job: submit, find, list, cancel."""

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.broker import Queue, announce_after_commit, wake_after_commit
from app.database import JsonObject
from app.errors import NotFound
from app.jobs import events
from app.jobs.models import TERMINAL, Job, JobKind, JobStatus
from app.settings import get_settings


def submit(
    session: Session,
    *,
    job_id: str,
    kind: JobKind,
    queue: Queue,
    account_id: str,
    labels: dict[str, str] | None = None,
    request_id: str | None = None,
    batch_key: str | None = None,
    batch_size: int = 1,
) -> Job:
    """Insert a queued job and its first event; the queue is woken after the commit.

    Args:
        batch_key: jobs of this queue with the same key may run in one batch; None runs alone.
        batch_size: how many places of the batch it takes.
    """
    job = Job(
        id=job_id,
        kind=kind,
        queue=queue,
        account_id=account_id,
        max_attempts=get_settings().max_attempts,
        labels=dict(labels or {}),
        request_id=request_id,
        batch_key=batch_key,
        batch_size=batch_size,
    )
    session.add(job)
    session.flush()
    events.append(session, job_id, "status", {"status": "queued"})
    wake_after_commit(session, queue)
    session.refresh(job)
    return job


def get(session: Session, account_id: str, job_id: str, kind: JobKind | None = None) -> Job:
    """A job of this account.

    Raises:
        NotFound: no such job, of that kind, in this account.
    """
    query = select(Job).where(Job.id == job_id, Job.account_id == account_id)
    if kind is not None:
        query = query.where(Job.kind == kind)
    job = session.scalar(query)
    if job is None:
        raise NotFound(f"No {kind or 'job'} {job_id}")
    return job


def list_newest(
    session: Session,
    account_id: str,
    *,
    limit: int,
    after: str | None,
    kind: JobKind | None = None,
    status: JobStatus | None = None,
) -> list[Job]:
    """Up to `limit` jobs, newest first, that are older than the job `after`.

    Ordered by creation, not by id: ids of different kinds start with different letters.
    """
    query = select(Job).where(Job.account_id == account_id)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if status is not None:
        query = query.where(Job.status == status)
    if after is not None:
        marker = get(session, account_id, after)
        query = query.where(
            (Job.created_at < marker.created_at)
            | ((Job.created_at == marker.created_at) & (Job.id < marker.id))
        )
    return list(session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)))


def position_in_queue(session: Session, job: Job) -> int | None:
    """How many jobs wait ahead by priority and age (0: next); None unless it is queued."""
    if job.status != "queued":
        return None
    return session.scalar(
        select(func.count())
        .select_from(Job)
        .where(
            Job.queue == job.queue,
            Job.status == "queued",
            (Job.priority > job.priority)
            | (
                (Job.priority == job.priority)
                & (
                    (Job.created_at < job.created_at)
                    | ((Job.created_at == job.created_at) & (Job.id < job.id))
                )
            ),
        )
    )


def request_cancel(session: Session, account_id: str, job_id: str, kind: JobKind) -> Job:
    """End a queued job at once, or ask a running one to end; no error when it has ended.

    Raises:
        NotFound: no such job in this account.
    """
    job = get(session, account_id, job_id, kind)
    ended = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.status == "queued")
        .values(status="canceled", cancel_requested_at=func.now(), ended_at=func.now())
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    if ended is not None:
        events.append(session, job_id, "status", _status_payload("canceled"))
    else:
        asked = session.scalar(
            update(Job)
            .where(Job.id == job_id, Job.status == "running", Job.cancel_requested_at.is_(None))
            .values(cancel_requested_at=func.now())
            .returning(Job.id)
            .execution_options(synchronize_session=False)
        )
        if asked is not None:
            # The worker listens on the job's channel and looks at the row at once.
            announce_after_commit(session, job_id)
    session.refresh(job)
    return job


def has_ended(job: Job) -> bool:
    """Whether the job's status will never change again."""
    return job.status in TERMINAL


def _status_payload(status: JobStatus) -> JsonObject:
    return {"status": status}
