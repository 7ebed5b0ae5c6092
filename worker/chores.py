"""What the sweeper does every few seconds, one thing after the other.

Each chore is a transaction of its own, or several; one that fails is told in the log and does not
keep the others from being done. Two sweepers at once are harmless.
"""

import logging
import time
from collections.abc import Callable

from app.audit import service as audit
from app.broker import wake
from app.database import transaction
from app.datasets import uploads
from app.idempotency import service as idempotency
from app.jobs import lifecycle, lines
from app.metrics import totals
from app.retention import expiry
from app.retention import service as retention
from app.settings import get_settings
from app.storage import get_store
from app.webhooks import sending
from app.workers import service as workers
from worker import metrics
from worker.webhooks import deliverer

log = logging.getLogger(__name__)


def sweep() -> None:
    """Do every chore once."""
    for chore in CHORES:
        try:
            chore()
        except Exception as error:  # a chore that fails must not keep the others from being done
            log.warning("%s failed", chore.__name__, exc_info=error)
            metrics.CHORES_FAILED.labels(chore.__name__.strip("_")).inc()


def sweep_orphans() -> None:
    """Find what is stored and needed by nothing; the chores remove it."""
    with transaction() as session:
        retention.sweep_orphans(session, get_store(), get_settings().orphan_age_seconds)


def _return_lost_jobs() -> None:
    with transaction() as session:
        lost = lifecycle.sweep_expired_leases(session)
    metrics.LEASES_EXPIRED.inc(len(lost))
    if lost:
        log.warning("returned the jobs of lost workers: %s", lost)


def _end_late_jobs() -> None:
    with transaction() as session:
        lifecycle.sweep_deadlines(session)


def _wake_queues() -> None:
    with transaction() as session:
        waiting = lifecycle.waiting_queues(session)
    for queue in waiting:
        wake(queue)


def _forget_old_lines() -> None:
    with transaction() as session:
        lines.forget_old_lines(session)


def _let_go_of_old_states() -> None:
    with transaction() as session:
        expiry.let_go_of_states(session)


def _let_go_of_old_pictures() -> None:
    with transaction() as session:
        expiry.let_go_of_pictures(session)
        expiry.let_go_of_inputs(session)


def _forget_old_answers() -> None:
    with transaction() as session:
        idempotency.prune(session)


def _forget_old_audit_entries() -> None:
    with transaction() as session:
        audit.prune(session)


def _give_up_late_uploads() -> None:
    with transaction() as session:
        uploads.expire_uploads(session, get_store())


def _send_webhooks() -> None:
    deliverer.ring()


def _forget_old_deliveries() -> None:
    with transaction() as session:
        sending.prune(session)


def _count_ended_jobs() -> None:
    with transaction() as session:
        totals.count_ended(session)


def _note_the_sweep() -> None:
    with transaction() as session:
        totals.note_sweep(session)


def _forget_silent_workers() -> None:
    with transaction() as session:
        workers.forget_silent(session)


def _remove_doomed_objects() -> None:
    """As many as there is time for until the next sweep."""
    ends_at = time.monotonic() + get_settings().sweep_seconds / 2
    while time.monotonic() < ends_at:
        with transaction() as session:
            if retention.sweep_doomed(session, get_store()) == 0:
                return


CHORES: tuple[Callable[[], None], ...] = (
    _return_lost_jobs,
    _end_late_jobs,
    _wake_queues,
    _forget_old_lines,
    _let_go_of_old_states,
    _let_go_of_old_pictures,
    _forget_old_answers,
    _forget_old_audit_entries,
    _send_webhooks,
    _forget_old_deliveries,
    _forget_silent_workers,
    _give_up_late_uploads,
    _remove_doomed_objects,
    _count_ended_jobs,
    # Last: it says that the others were done.
    _note_the_sweep,
)
