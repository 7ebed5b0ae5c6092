"""What the API asks of a job: submit, find, list, cancel."""

from datetime import datetime

import structlog
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app import tracing
from app.accounts import quotas
from app.broker import Queue, announce_after_commit, wake_after_commit
from app.database import JsonObject
from app.errors import NotFound
from app.jobs import events, lines
from app.jobs.models import TERMINAL, Job, JobKind, JobStatus
from app.settings import get_settings
from app.webhooks import service as webhooks

log = structlog.get_logger(__name__)


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
    base_model: str | None = None,
    recipe: str | None = None,
    priority: int = 0,
    deadline_at: datetime | None = None,
    webhook_url: str | None = None,
) -> Job:
    """Insert a queued job and its first event; the queue is woken after the commit.

    Args:
        batch_key: jobs of this queue with the same key may run in one batch; None runs alone.
        batch_size: how many places of the batch it takes.
        base_model: what a worker should have loaded for it, where that matters.
        recipe: of the LoRAs it needs; workers that have them merged prefer it.
        priority: higher goes first, whoever waits.
        deadline_at: when the job fails unless it has ended.
        webhook_url: told of every change of status, besides the account's webhooks.

    Raises:
        QuotaExceeded: too many wait already, or the month's GPU seconds are used up.
        Invalid: nothing is sent to such a webhook.
    """
    if webhook_url is not None:
        webhooks.check(webhook_url, "webhook")
    # What an upload brought must be worked through, whatever else waits.
    if queue != "ingest":
        quotas.take(session, account_id, queued_jobs=1, gpu_seconds_per_month=0)
    job = Job(
        id=job_id,
        kind=kind,
        queue=queue,
        account_id=account_id,
        max_attempts=get_settings().max_attempts,
        labels=dict(labels or {}),
        # Some jobs follow from a request for something else, such as pictures to be measured.
        request_id=request_id or structlog.contextvars.get_contextvars().get("request_id"),
        traceparent=tracing.current_traceparent(),
        batch_key=batch_key,
        batch_size=batch_size,
        base_model=base_model,
        recipe=recipe,
        priority=priority,
        deadline_at=deadline_at,
        webhook_url=webhook_url,
        event_seq=1,
    )
    session.add(job)
    session.flush()
    lines.open_line(session, queue, account_id, priority)
    events.begin(session, job_id, "status", _status_payload("queued"))
    wake_after_commit(session, queue)
    log.info("submitted", job_id=job_id, kind=kind)
    return job


def get(session: Session, account_id: str, job_id: str, kind: JobKind | None = None) -> Job:
    """A job of this account.

    Raises:
        NotFound: no such job, of that kind, in this account.
    """
    query = select(Job).where(
        Job.id == job_id, Job.account_id == account_id, Job.deleted_at.is_(None)
    )
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
    query = select(Job).where(Job.account_id == account_id, Job.deleted_at.is_(None))
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
    """About how many jobs go first (0: next) if no other is queued; None unless it is queued.

    Accounts take turns: the job waits for those before it in its own line, and for as many of
    each other account, where it has so many. Long lines are counted to a limit and then taken to
    be like the others, as clients ask this of every waiting job all the time.
    """
    if job.status != "queued":
        return None
    found: int | None = session.scalar(
        _POSITION,
        {
            "queue": job.queue,
            "account_id": job.account_id,
            "priority": job.priority,
            "created_at": job.created_at,
            "id": job.id,
            "counted": COUNTED_OF_A_LINE,
            "lines": COUNTED_LINES,
        },
    )
    return found


# Beyond these a position is an estimate.
COUNTED_OF_A_LINE = 1000
COUNTED_LINES = 100
_POSITION = text("""
    WITH mine AS (
        SELECT count(*) AS ahead FROM (
            SELECT FROM jobs
            WHERE queue = :queue AND account_id = :account_id AND priority = :priority
              AND status = 'queued' AND (created_at, id) < (:created_at, :id)
            LIMIT :counted
        ) AS before
    ), others AS (
        SELECT account_id, priority, count(*) OVER () AS total FROM job_lines
        WHERE queue = :queue AND waiting AND priority >= :priority
          AND (account_id, priority) <> (:account_id, :priority)
        LIMIT :lines
    ), theirs AS (
        SELECT others.total, count(found.id) AS jobs
        FROM others CROSS JOIN mine LEFT JOIN LATERAL (
            SELECT jobs.id FROM jobs
            WHERE queue = :queue AND jobs.account_id = others.account_id
              AND jobs.priority = others.priority AND status = 'queued'
            LIMIT least(mine.ahead + 1, :counted / 10)
        ) AS found ON true
        GROUP BY others.account_id, others.priority, others.total
    )
    SELECT mine.ahead + coalesce(
        (SELECT CAST(avg(jobs) * max(total) AS bigint) FROM theirs), 0)
    FROM mine
""")


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
