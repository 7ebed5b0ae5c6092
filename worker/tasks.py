"""The Celery tasks: one doorbell for all queues, and the sweeps."""

import logging

from app.broker import DELIVER_TASK, ORPHANS_TASK, SWEEP_TASK, WORK_TASK, celery_app, wake
from app.database import transaction
from app.jobs import lifecycle
from worker import chores
from worker.drain import claims_no_more
from worker.runner import run_next
from worker.webhooks import deliverer
from worker.workspace import remove_leftovers

log = logging.getLogger(__name__)


@celery_app.task(name=WORK_TASK)
def work(queue: str) -> None:
    """Run one job of the queue, then ring again if more are waiting."""
    if claims_no_more():
        return
    if not run_next(queue) or claims_no_more():
        return
    if left := remove_leftovers():
        log.info("removed the folders of lost attempts: %s", left)
    with transaction() as session:
        more = queue in lifecycle.waiting_queues(session)
    if more:
        wake(queue)


@celery_app.task(name=SWEEP_TASK)
def sweep() -> None:
    """Do what the sweeper does every few seconds."""
    chores.sweep()


@celery_app.task(name=DELIVER_TASK)
def deliver() -> None:
    """Begin to send what webhooks are due; it goes on beside the other tasks."""
    deliverer.ring()


@celery_app.task(name=ORPHANS_TASK)
def sweep_orphans() -> None:
    """Search storage for what nothing needs."""
    chores.sweep_orphans()
