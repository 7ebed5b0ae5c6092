"""The worker's side of a job's life, once it is claimed: renew, write, release, finish, sweep.

Every write names the attempt and the worker it belongs to, so the database decides who still owns
a job. A write that matches no row raises `LeaseLost`: the job is another worker's now, and nothing
was changed.
"""

import secrets
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Float, cast, func, select, text, update
from sqlalchemy.dialects.postgresql import INTERVAL
from sqlalchemy.orm import Session

from app.accounts import usage
from app.broker import WORK_QUEUES, wake_after_commit
from app.database import JsonObject
from app.errors import LeaseLost
from app.jobs import events, lines
from app.jobs.models import EventType, Job, JobKind, JobStatus
from app.settings import get_settings

# Kinds whose batch size is a number of pictures.
DRAWING: frozenset[JobKind] = frozenset({"generation", "comparison"})
GPU_QUEUES = frozenset({"caption", "train", "generate"})
# Kinds whose pictures may be kept for a while only.
PICTURE_KINDS = frozenset({"generation", "comparison"})


@dataclass(frozen=True)
class Claim:
    """The right to run one attempt of one job, for as long as its lease is renewed."""

    job_id: str
    kind: JobKind
    queue: str
    account_id: str
    attempt: int
    worker_id: str
    # Jobs with the same key may run in one batch, of which this one takes so many places.
    batch_key: str | None = None
    batch_size: int = 1
    # Of the request that made the job: for log lines, and for spans to go on from.
    request_id: str | None = None
    traceparent: str | None = None
    # Since the submission, where this is the first attempt.
    waited_seconds: float | None = None
    # Of this very claim: a database that was put back to an earlier moment counts an attempt twice,
    # and what was stored by the first must never be written over by the second.
    token: str = field(default_factory=lambda: secrets.token_hex(6))

    @property
    def run(self) -> str:
        """The attempt's name among all that ever ran, in whatever history of the database."""
        return f"{self.attempt}-{self.token}"


@dataclass(frozen=True)
class Orders:
    """What a heartbeat brings back.

    Attributes:
        seconds_left: until the deadline, by the database's clock; None without one, less than 0
            when it has passed.
    """

    cancel_requested: bool
    seconds_left: float | None


def renew(session: Session, claim: Claim) -> Orders:
    """Extend the lease, and learn whether to stop.

    Raises:
        LeaseLost: the job is no longer this attempt's.
    """
    row = session.execute(
        _owned(claim)
        .values(lease_expires_at=from_now(get_settings().lease_seconds))
        .returning(
            Job.cancel_requested_at.is_not(None).label("cancel"),
            func.extract("epoch", Job.deadline_at - func.now()).label("left"),
        )
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"{claim.job_id} attempt {claim.attempt}")
    return Orders(row.cancel, None if row.left is None else float(row.left))


def hold(session: Session, claim: Claim) -> None:
    """Lock the job for the rest of this transaction, or learn that it is lost.

    Whatever a worker writes besides the job's own row (metrics, checkpoints, captions) goes in a
    transaction that begins with this.

    Raises:
        LeaseLost: the job is no longer this attempt's.
    """
    owned = session.scalar(select(Job.id).where(*_is_owned(claim)).with_for_update())
    if owned is None:
        raise LeaseLost(f"{claim.job_id} attempt {claim.attempt}")


def report_progress(
    session: Session,
    claim: Claim,
    *,
    fraction: float,
    step: int | None = None,
    total_steps: int | None = None,
    stage: str | None = None,
    eta_s: float | None = None,
) -> None:
    """Write how far the job is, on its row and in its story.

    Raises:
        LeaseLost: the job is no longer this attempt's.
    """
    payload = {
        "fraction": min(max(fraction, 0.0), 1.0),
        "step": step,
        "total_steps": total_steps,
        "stage": stage,
        "eta_s": eta_s,
    }
    values = {f"progress_{name}": value for name, value in payload.items()}
    _write_and_tell(session, claim, values, "progress", payload)


def record(session: Session, claim: Claim, type_: EventType, payload: JsonObject) -> None:
    """Append an event to the story of the job.

    Raises:
        LeaseLost: the job is no longer this attempt's.
    """
    _write_and_tell(session, claim, {}, type_, payload)


def finish(
    session: Session,
    claim: Claim,
    status: JobStatus,
    *,
    gpu_seconds: float,
    error: JsonObject | None = None,
) -> None:
    """End the job. What the handler publishes goes in the same transaction.

    Args:
        gpu_seconds: wall seconds of this attempt, added to those of earlier ones.
        error: `code`, `message` and `retryable` of a failed job.

    Raises:
        LeaseLost: the job is no longer this attempt's.
    """
    values: dict[str, Any] = {
        "status": status,
        "ended_at": func.now(),
        "lease_expires_at": None,
        "gpu_seconds": Job.gpu_seconds + gpu_seconds,
        "progress_eta_s": None,
    }
    if status == "succeeded":
        values["progress_fraction"] = 1.0
        kept = get_settings().picture_keep_seconds
        if kept is not None and claim.kind in PICTURE_KINDS:
            values["pictures_expire_at"] = from_now(kept)
    if error is not None:
        values |= {f"error_{name}": error[name] for name in ("code", "message", "retryable")}
    payload: JsonObject = {"status": status}
    if error is not None:
        payload["error"] = error
    _write_and_tell(session, claim, values, "status", payload)
    images = claim.batch_size if status == "succeeded" and claim.kind in DRAWING else 0
    _meter(session, claim, gpu_seconds, jobs=1, images=images)


def release(
    session: Session,
    claim: Claim,
    *,
    gpu_seconds: float,
    reason: str,
    pause_seconds: float = 0.0,
) -> JobStatus:
    """Put a job back by the worker's free will, as when it stops: this attempt does not count.

    Its status is then what is answered.

    One that is to be canceled is: a worker that took it again would only learn of it later.

    Args:
        pause_seconds: how long nobody may claim it.

    Raises:
        LeaseLost: the job is no longer this attempt's.
    """
    hold(session, claim)
    if _is_to_be_canceled(session, claim):
        finish(session, claim, "canceled", gpu_seconds=gpu_seconds)
        return "canceled"
    _write(
        session,
        claim,
        {
            "status": "queued",
            "worker_id": None,
            "lease_expires_at": None,
            "not_before": from_now(pause_seconds) if pause_seconds else None,
            "gpu_seconds": Job.gpu_seconds + gpu_seconds,
        },
    )
    _meter(session, claim, gpu_seconds)
    _queue_again(session, claim.job_id, {"reason": reason})
    wake_after_commit(session, claim.queue)
    return "queued"


def retry_later(
    session: Session, claim: Claim, *, gpu_seconds: float, error: JsonObject
) -> JobStatus:
    """A retryable failure: back to the queue with a growing pause, or failed at the last attempt.

    Its status is then what is answered.

    One that is to be canceled is, as in `release`.

    Raises:
        LeaseLost: the job is no longer this attempt's.
    """
    hold(session, claim)
    if _is_to_be_canceled(session, claim):
        finish(session, claim, "canceled", gpu_seconds=gpu_seconds)
        return "canceled"
    failures, max_attempts = session.execute(
        select(Job.failures + 1, Job.max_attempts).where(Job.id == claim.job_id)
    ).one()
    if failures >= max_attempts:
        finish(session, claim, "failed", gpu_seconds=gpu_seconds, error=error)
        return "failed"
    _write(
        session,
        claim,
        {
            "status": "queued",
            "worker_id": None,
            "lease_expires_at": None,
            "failures": failures,
            "not_before": from_now(_pause_seconds(failures)),
            "gpu_seconds": Job.gpu_seconds + gpu_seconds,
        },
    )
    _meter(session, claim, gpu_seconds)
    _queue_again(session, claim.job_id, {"reason": "retry", "error": error})
    return "queued"


def sweep_expired_leases(session: Session) -> list[str]:
    """Return the jobs of silent workers to their queues, or fail those out of attempts.

    Running two sweepers is harmless: each row is taken by one of them.
    """
    lost = session.execute(
        select(Job.id, Job.failures + 1, Job.max_attempts, Job.cancel_requested_at)
        .where(Job.status == "running", Job.lease_expires_at < func.now())
        .with_for_update(skip_locked=True)
    ).all()
    for job_id, failures, max_attempts, cancel_requested_at in lost:
        values: dict[str, Any] = {
            "worker_id": None,
            "lease_expires_at": None,
            "failures": failures,
        }
        payload: JsonObject | None
        if cancel_requested_at is not None:
            values |= {"status": "canceled", "ended_at": func.now()}
            payload = {"status": "canceled"}
        elif failures >= max_attempts:
            message = f"The worker was lost {failures} times while it ran this job"
            values |= {
                "status": "failed",
                "ended_at": func.now(),
                "error_code": "worker_lost",
                "error_message": message,
                "error_retryable": True,
            }
            error = {"code": "worker_lost", "message": message, "retryable": True}
            payload = {"status": "failed", "error": error}
        else:
            values |= {"status": "queued", "not_before": from_now(_pause_seconds(failures))}
            payload = None
        session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(values)
            .execution_options(synchronize_session=False)
        )
        if payload is None:
            _queue_again(session, job_id, {"reason": "worker_lost"})
        else:
            events.append(session, job_id, "status", payload)
    return [row.id for row in lost]


def sweep_deadlines(session: Session) -> None:
    """Fail queued jobs whose deadline has passed; running ones learn it by their heartbeat."""
    message = "The job did not end before its deadline"
    late = session.scalars(
        update(Job)
        .where(Job.status == "queued", Job.deadline_at < func.now())
        .values(
            status="failed",
            ended_at=func.now(),
            error_code="deadline_exceeded",
            error_message=message,
            error_retryable=False,
        )
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    ).all()
    error = {"code": "deadline_exceeded", "message": message, "retryable": False}
    for job_id in late:
        events.append(session, job_id, "status", {"status": "failed", "error": error})


def waiting_queues(session: Session) -> list[str]:
    """The queues in which a job could be claimed now."""
    return [
        queue
        for queue in WORK_QUEUES
        if session.scalar(
            select(Job.id)
            .where(
                Job.queue == queue,
                Job.status == "queued",
                Job.not_before.is_(None) | (Job.not_before <= func.now()),
            )
            .limit(1)
        )
    ]


def counts_as_gpu(queue: str) -> bool:
    """Whether running time on this queue is paid as GPU time."""
    return queue in GPU_QUEUES


def _meter(
    session: Session, claim: Claim, gpu_seconds: float, *, jobs: int = 0, images: int = 0
) -> None:
    usage.meter(
        session, claim.account_id, claim.kind, gpu_seconds=gpu_seconds, jobs=jobs, images=images
    )


def _queue_again(session: Session, job_id: str, told: JsonObject) -> None:
    """Open the line of a job that waits again, and tell its story so."""
    place = session.execute(
        select(Job.queue, Job.account_id, Job.priority).where(Job.id == job_id)
    ).one()
    lines.open_line(session, *place)
    events.append(session, job_id, "status", {"status": "queued", **told})


def _is_to_be_canceled(session: Session, claim: Claim) -> bool:
    asked = select(Job.cancel_requested_at).where(Job.id == claim.job_id)
    return session.scalar(asked) is not None


def _is_owned(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    """The fence. The worker is named too: after a restore or a failover that lost its newest
    commits an attempt's number is given out again, to another worker."""
    return (
        Job.id == claim.job_id,
        Job.attempt == claim.attempt,
        Job.worker_id == claim.worker_id,
        Job.status == "running",
    )


def _owned(claim: Claim) -> Any:
    return update(Job).where(*_is_owned(claim)).execution_options(synchronize_session=False)


def _write(session: Session, claim: Claim, values: dict[str, Any]) -> None:
    written = session.scalar(_owned(claim).values(values).returning(Job.id))
    if written is None:
        raise LeaseLost(f"{claim.job_id} attempt {claim.attempt}")


def _write_and_tell(
    session: Session,
    claim: Claim,
    values: dict[str, Any],
    type_: EventType,
    payload: JsonObject,
) -> None:
    """Write to the job's row and add an event, by one UPDATE."""
    row = session.execute(
        _owned(claim).values(values | events.NEXT).returning(*events.numbered(type_))
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"{claim.job_id} attempt {claim.attempt}")
    events.add(session, claim.job_id, type_, payload, row.seq, row.is_watched)


def _pause_seconds(failures: int) -> float:
    settings = get_settings()
    # Beyond that many doublings any pause is longer than the longest, and a float overflows.
    doubled = settings.retry_backoff_seconds * 2.0 ** min(failures - 1, 60)
    return float(min(doubled, settings.retry_backoff_most_seconds))


def from_now(seconds: Any) -> Any:
    """The database's clock plus so many seconds; workers' clocks may differ."""
    return func.now() + cast(seconds, Float) * cast(text("'1 second'"), INTERVAL)
