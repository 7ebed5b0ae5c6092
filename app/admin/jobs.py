"""Every account's jobs, as operators look at them and act on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.database import utc_now
from app.errors import Conflict, LorawrightError, NotFound
from app.generations import service as generations
from app.jobs import service as jobs
from app.jobs.models import Job, JobKind, JobStatus
from app.trainings import service as trainings


@dataclass(frozen=True)
class Filters:
    """Which jobs are looked at; None is any."""

    status: JobStatus | None = None
    kind: JobKind | None = None
    queue: str | None = None
    account_id: str | None = None
    error_code: str | None = None
    worker_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Failure:
    """Jobs that failed in the same way."""

    kind: str
    code: str
    jobs: int
    accounts: int
    newest_at: datetime
    newest_id: str
    message: str


@dataclass(frozen=True)
class QueueState:
    """One queue now, and what ended there within the last hour."""

    queue: str
    queued: int
    running: int
    oldest_waiting_seconds: float | None
    ended_last_hour: int
    failed_last_hour: int


def get(session: Session, job_id: str) -> Job:
    """A job of whatever account.

    Raises:
        NotFound: there is none of that id.
    """
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"No job {job_id}")
    return job


def list_newest(session: Session, wanted: Filters, *, limit: int, after: str | None) -> list[Job]:
    """Up to `limit` jobs that fit the filters, newest first; deleted ones are among them."""
    query = newest_query(wanted)
    if after is not None:
        marker = get(session, after)
        query = query.where(
            (Job.created_at < marker.created_at)
            | ((Job.created_at == marker.created_at) & (Job.id < marker.id))
        )
    return list(session.scalars(query.limit(limit)))


def newest_query(wanted: Filters) -> Select[Job]:
    """The jobs that fit the filters, newest first."""
    query = select(Job).order_by(Job.created_at.desc(), Job.id.desc())
    for column, value in (
        (Job.status, wanted.status),
        (Job.kind, wanted.kind),
        (Job.queue, wanted.queue),
        (Job.account_id, wanted.account_id),
        (Job.error_code, wanted.error_code),
        (Job.worker_id, wanted.worker_id),
    ):
        if value is not None:
            query = query.where(column == value)
    if wanted.since is not None:
        query = query.where(Job.created_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(Job.created_at < wanted.until)
    return query


def retry(session: Session, job_id: str, request_id: str) -> str:
    """Queue what a job was to do again, as a new job of its account; that one's id.

    A training goes on from its newest state.

    Raises:
        NotFound: there is no such job.
        Conflict: it has not failed or been canceled, or is of a kind that its customer has to
            ask for again.
    """
    job = get(session, job_id)
    if job.kind == "training":
        new_id = trainings.retry(session, job.account_id, job_id, request_id).id
    elif job.kind == "generation":
        new_id = generations.retry(session, job.account_id, job_id, request_id).id
    else:
        raise Conflict(f"{job_id} is a {job.kind}; only trainings and generations are retried")
    audit.record(
        session, "job.retry", job_id, account_id=job.account_id, changes={"new_job": new_id}
    )
    return new_id


def cancel(session: Session, job_id: str) -> None:
    """End a queued job, or ask a running one to end; no error when it has ended.

    Raises:
        NotFound: there is no such job.
    """
    job = get(session, job_id)
    was = job.status
    jobs.request_cancel(session, job.account_id, job_id, job.kind)
    if was in ("queued", "running"):
        audit.record(
            session, "job.cancel", job_id, account_id=job.account_id, changes={"status": was}
        )


def each(
    session: Session, job_ids: Sequence[str], act: Callable[[str], object]
) -> dict[str, LorawrightError | object]:
    """Act on several jobs; what fails for one of them is undone and told, and the others go on."""
    outcomes: dict[str, LorawrightError | object] = {}
    for job_id in dict.fromkeys(job_ids):
        try:
            with session.begin_nested():
                outcomes[job_id] = act(job_id)
        except LorawrightError as error:
            outcomes[job_id] = error
    return outcomes


def failures(session: Session, within: timedelta) -> list[Failure]:
    """How jobs have failed lately, the most frequent first."""
    newest = func.array_agg(Job.id, order_by=Job.ended_at.desc())
    messages = func.array_agg(Job.error_message, order_by=Job.ended_at.desc())
    rows = session.execute(
        select(
            Job.kind,
            Job.error_code,
            func.count(),
            func.count(Job.account_id.distinct()),
            func.max(Job.ended_at),
            newest[1],
            messages[1],
        )
        .where(Job.status == "failed", Job.ended_at > utc_now() - within)
        .group_by(Job.kind, Job.error_code)
        .order_by(func.count().desc(), Job.kind, Job.error_code)
    ).all()
    return [
        Failure(kind, code or "internal", count, accounts, at, job_id, message or "")
        for kind, code, count, accounts, at, job_id, message in rows
    ]


def queues(session: Session, names: Sequence[str]) -> list[QueueState]:
    """Every queue, whether or not anything is in it."""
    now = utc_now()
    waiting = {
        queue: (count, oldest)
        for queue, count, oldest in session.execute(
            select(Job.queue, func.count(), func.min(Job.created_at))
            .where(Job.status == "queued")
            .group_by(Job.queue)
        )
    }
    counts = select(Job.queue, func.count()).where(Job.status == "running").group_by(Job.queue)
    running = dict(session.execute(counts).all())
    ended = {
        queue: (count, failed)
        for queue, count, failed in session.execute(
            select(Job.queue, func.count(), func.count().filter(Job.status == "failed"))
            .where(Job.ended_at > now - timedelta(hours=1))
            .group_by(Job.queue)
        )
    }
    states = []
    for name in names:
        count, oldest = waiting.get(name, (0, None))
        done, failed = ended.get(name, (0, 0))
        seconds = None if oldest is None else round((now - oldest).total_seconds(), 1)
        states.append(QueueState(name, count, running.get(name, 0), seconds, done, failed))
    return states
