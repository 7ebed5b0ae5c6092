"""Whether jobs get on: workers at every queue, sweeps, and nothing that waits for ever."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.broker import MAINTENANCE, WORK_QUEUES
from app.database import transaction
from app.doctor.findings import Finding, ok, problem, warning
from app.jobs import claiming
from app.jobs.models import Job, JobLine
from app.metrics import totals
from app.retention.models import DoomedObject
from app.settings import get_settings
from app.webhooks.models import WebhookDelivery
from app.workers import service as workers
from app.workers.models import Worker

# A job that idle workers leave alone for so long is not waiting for its turn.
STUCK_SECONDS = 60.0
# Claimed so often, and come to no end: something ends its workers.
MANY_ATTEMPTS = 10
LATE = timedelta(hours=1)
NAMED = 5


def work() -> Iterator[Finding]:
    """What becomes of jobs; nothing where Postgres does not answer, which another check tells."""
    try:
        with transaction() as session:
            yield from _workers(session)
            yield from _sweeper(session)
            yield from _queues(session)
            yield from _poison(session)
            yield from _late(session)
    except SQLAlchemyError as error:
        yield problem(
            "work", f"it cannot be read: {type(error).__name__}", "see what is said of postgres"
        )


def _workers(session: Session) -> Iterator[Finding]:
    everyone = workers.everyone(session)
    alive = [worker for worker in everyone if not workers.is_silent(worker)]
    for queue in (*WORK_QUEUES, MAINTENANCE):
        serving = [worker for worker in alive if queue in worker.queues]
        ready = [worker for worker in serving if worker.order is None]
        waits = claiming.waiting_jobs(session, queue, 1)
        if ready:
            yield ok(f"workers.{queue}", f"{len(ready)} alive")
        elif serving:
            yield problem(
                f"workers.{queue}",
                f"each of its {len(serving)} workers is drained",
                "end them and start new ones, or POST /v1/admin/workers/{id}/resume",
            )
        elif waits or queue == MAINTENANCE:
            why = "and jobs wait" if waits else "so nothing is swept, and no webhook is sent"
            yield problem(f"workers.{queue}", f"none is alive, {why}", _start(queue))
        else:
            yield warning(f"workers.{queue}", "none is alive; nothing waits", _start(queue))
    silent = [worker.id for worker in everyone if workers.is_silent(worker)]
    if silent:
        yield warning(
            "workers.silent",
            f"not heard of for a lease: {_some(silent)}",
            "see whether their machines are there; after a day they are forgotten",
        )
    versions = sorted({worker.version for worker in alive})
    if len(versions) > 1:
        yield warning(
            "workers.versions",
            f"several are at work: {', '.join(versions)}",
            "in the middle of an upgrade that is as it should be; else replace the older ones",
        )


def _start(queue: str) -> str:
    return (
        f"start a worker with -Q {queue}; if one runs, see its log, and whether it reaches Postgres"
    )


def _sweeper(session: Session) -> Iterator[Finding]:
    settings = get_settings()
    most = 4 * settings.sweep_seconds + 30
    since = totals.seconds_since_sweep(session)
    todo = "have one `celery beat`, and a worker with -Q maintenance; see their logs"
    lost = session.scalars(
        select(Job.id)
        .where(Job.status == "running", Job.lease_expires_at < func.now() - timedelta(seconds=most))
        .limit(NAMED)
    ).all()
    if since is not None and since <= most and not lost:
        yield ok("sweeper", f"the last sweep was {since:.0f} s ago")
    elif lost:
        yield problem("sweeper", f"lost jobs are not returned: {_some(lost)}", todo)
    elif since is None:
        yield problem("sweeper", "no sweep was ever done", todo)
    else:
        yield problem("sweeper", f"the last sweep was {since:.0f} s ago", todo)


def _queues(session: Session) -> Iterator[Finding]:
    held = workers.held_jobs(session)
    idle = [
        worker
        for worker in workers.everyone(session)
        if not workers.is_silent(worker) and worker.order is None and worker.id not in held
    ]
    for queue in WORK_QUEUES:
        yield from _stuck(session, queue, [worker for worker in idle if queue in worker.queues])
    closed = session.scalars(
        select(Job.id)
        .outerjoin(
            JobLine,
            (JobLine.queue == Job.queue)
            & (JobLine.account_id == Job.account_id)
            & (JobLine.priority == Job.priority),
        )
        .where(Job.status == "queued", JobLine.waiting.is_not(True))
        .limit(NAMED)
    ).all()
    if closed:
        yield problem(
            "queue.closed",
            f"jobs wait in lines that are closed: {_some(closed)}",
            "open them: UPDATE job_lines SET waiting = true; and report it, it must not happen",
        )


def _stuck(session: Session, queue: str, idle: Sequence[Worker]) -> Iterator[Finding]:
    """A job that could be claimed, idle workers that could claim it, and no claim for a while."""
    best = claiming.waiting_jobs(session, queue, 1)
    if not best or not idle:
        return
    served = session.scalar(select(func.max(JobLine.served_at)).where(JobLine.queue == queue))
    job = session.get_one(Job, best[0])
    since = max(at for at in (job.created_at, job.not_before, served) if at is not None)
    seconds = _seconds_ago(session, since)
    if seconds > STUCK_SECONDS + 2 * get_settings().sweep_seconds:
        yield problem(
            f"queue.{queue}",
            f"{job.id} could have been claimed for {seconds:.0f} s, and "
            f"{_some([worker.id for worker in idle])} have nothing to do",
            "doorbells do not arrive: check that workers and beat have the same "
            "LORAWRIGHT_REDIS_URL, and start the workers anew",
        )


def _poison(session: Session) -> Iterator[Finding]:
    found = session.execute(
        select(Job.id, Job.attempt)
        .where(Job.status.in_(("queued", "running")), Job.attempt >= MANY_ATTEMPTS)
        .order_by(Job.attempt.desc())
        .limit(NAMED)
    ).all()
    if found:
        yield warning(
            "jobs.attempts",
            "begun again and again: "
            + ", ".join(f"{row.id} ({row.attempt} times)" for row in found),
            "see GET /v1/admin/jobs/{id}; cancel it with POST /v1/admin/jobs/{id}/cancel",
        )


def _late(session: Session) -> Iterator[Finding]:
    """What sweeps should have done long ago."""
    late = func.now() - LATE - timedelta(seconds=4 * get_settings().sweep_seconds)
    doomed = session.scalar(
        select(func.count()).select_from(DoomedObject).where(DoomedObject.look_at < late)
    )
    if doomed:
        yield warning(
            "sweeper.objects",
            f"{doomed} objects should have been removed an hour ago or more",
            "see the log of the worker with -Q maintenance: storage may refuse to delete",
        )
    unsent = session.scalar(
        select(func.count())
        .select_from(WebhookDelivery)
        .where(WebhookDelivery.status == "pending", WebhookDelivery.due_at < late)
    )
    if unsent:
        yield warning(
            "webhooks",
            f"{unsent} messages should have been sent an hour ago or more",
            "see the log of the worker with -Q maintenance: its way out may be closed",
        )


def _seconds_ago(session: Session, moment: datetime) -> float:
    return float(session.scalar(select(func.extract("epoch", func.now() - moment))) or 0)


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:NAMED])
    return shown if len(ids) <= NAMED else f"{shown} and {len(ids) - NAMED} more"
