"""The producer's side of Celery: a doorbell for each queue, and live news over Redis pub/sub.

Nothing here carries anything that can be lost. A missed doorbell is rung again by the sweeper; a
missed piece of news is read from Postgres.
"""

import logging
from functools import cache
from typing import Any, Literal, get_args

import redis
from celery import Celery
from celery.signals import setup_logging
from kombu.exceptions import OperationalError
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.logs import configure_logs
from app.settings import get_settings

log = logging.getLogger(__name__)

Queue = Literal["ingest", "caption", "train", "generate"]
WORK_QUEUES: tuple[Queue, ...] = get_args(Queue)
MAINTENANCE = "maintenance"
WORK_TASK = "lorawright.work"
SWEEP_TASK = "lorawright.sweep"
ORPHANS_TASK = "lorawright.orphans"
DELIVER_TASK = "lorawright.deliver"


def _configuration() -> dict[str, Any]:
    """Celery's settings, asked for when they are first needed."""
    settings = get_settings()
    return {
        "broker_url": settings.redis_url,
        "task_ignore_result": True,
        "task_acks_late": False,  # the message is only a doorbell; the job row holds the work
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_hijack_root_logger": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # a worker waits for Redis as long as it takes
        "broker_transport_options": {
            # A producer must not hang a request while Redis is away.
            "socket_connect_timeout": 2,
            "socket_timeout": 5,
        },
        "task_publish_retry": False,
        "task_default_queue": MAINTENANCE,
        "beat_schedule": {
            "sweep": {
                "task": SWEEP_TASK,
                "schedule": settings.sweep_seconds,
                # A sweep that could not run in time is replaced by the next one.
                "options": {"queue": MAINTENANCE, "expires": settings.sweep_seconds},
            },
            "orphans": {
                "task": ORPHANS_TASK,
                "schedule": settings.orphan_sweep_seconds,
                "options": {"queue": MAINTENANCE, "expires": settings.orphan_sweep_seconds},
            },
        },
        "timezone": "UTC",
    }


celery_app = Celery("lorawright")
celery_app.add_defaults(_configuration)


@setup_logging.connect
def _configure_logs(**_: Any) -> None:
    """Celery's own processes, workers and beat, write the lines that all others write."""
    configure_logs(get_settings().log_level)


@cache
def get_redis() -> redis.Redis:
    """A shared client with short patience: Redis is a convenience wherever this is used."""
    return redis.Redis.from_url(
        get_settings().redis_url, socket_connect_timeout=2, socket_timeout=5, decode_responses=True
    )


def wake(queue: str) -> None:
    """Ring a queue's doorbell. Redis being away is logged; the sweeper rings again."""
    try:
        celery_app.send_task(WORK_TASK, args=[queue], queue=queue, retry=False)
    except (OperationalError, OSError, redis.RedisError) as error:
        log.warning("queue %s not woken: %s", queue, error)


def wake_deliverer() -> None:
    """Ring for whoever sends webhooks. Redis being away is logged; the sweeper rings again."""
    try:
        celery_app.send_task(DELIVER_TASK, queue=MAINTENANCE, retry=False)
    except (OperationalError, OSError, redis.RedisError) as error:
        log.warning("webhooks not woken: %s", error)


def job_channel(job_id: str) -> str:
    """Where news of one job is whispered: followed by event streams and by its worker."""
    return f"lorawright:job:{job_id}"


# What is whispered of a worker's own report (progress, metrics, …): streams look, it need not.
REPORT = "report"


def announce(job_id: str, *, is_report: bool = False) -> None:
    """Tell whoever follows a job to look at Postgres now; its worker, unless it is a report."""
    try:
        get_redis().publish(job_channel(job_id), REPORT if is_report else "")
    except redis.RedisError as error:
        log.warning("news of %s not announced: %s", job_id, error)


def wake_after_commit(session: Session, queue: str) -> None:
    """Ring the doorbell once the session's transaction has committed; never before, never else."""
    _pending(session, "wake").add(queue)


def deliver_after_commit(session: Session) -> None:
    """Ring for whoever sends webhooks once the session's transaction has committed."""
    _pending(session, "deliver").add("")


def announce_after_commit(session: Session, job_id: str, *, is_report: bool = False) -> None:
    """Announce a job's news once the session's transaction has committed.

    Args:
        is_report: its worker has nothing to learn of it.
    """
    _pending(session, "announce").add(job_id)
    if not is_report:
        _pending(session, "announce to worker").add(job_id)


def _pending(session: Session, what: str) -> set[str]:
    return session.info.setdefault(what, set())


@event.listens_for(Session, "after_commit")
def _send_pending(session: Session) -> None:
    for queue in session.info.pop("wake", ()):
        wake(queue)
    to_worker = session.info.pop("announce to worker", ())
    for job_id in session.info.pop("announce", ()):
        announce(job_id, is_report=job_id not in to_worker)
    if session.info.pop("deliver", None):
        wake_deliverer()


@event.listens_for(Session, "after_rollback")
def _forget_pending(session: Session) -> None:
    session.info.pop("wake", None)
    session.info.pop("announce", None)
    session.info.pop("announce to worker", None)
    session.info.pop("deliver", None)
