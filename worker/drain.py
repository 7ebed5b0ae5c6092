"""Whether this worker is stopping, or an operator has ordered it to rest.

Celery tells the parent of a stop; the job runs in a child. The event is made before the child is
forked, so both see the same one. An operator's order is for one process alone, which hears of it
with its heartbeat (`worker.presence`) and may be told to go on.
"""

import multiprocessing
import threading

from app.workers.models import Order

_draining = multiprocessing.get_context("fork").Event()
_held = threading.Event()
_handing_back = threading.Event()


def start_draining() -> None:
    """Claim no more, and bring running jobs to a safe point."""
    _draining.set()


def obey(order: Order | None) -> bool:
    """Do as an operator says, until he says otherwise; whether this process may go on only now."""
    was_held = _held.is_set()
    for event, is_ordered in (
        (_held, order is not None),
        (_handing_back, order == "hand_back"),
    ):
        if is_ordered:
            event.set()
        else:
            event.clear()
    return was_held and order is None


def claims_no_more() -> bool:
    """Whether jobs are left to other workers."""
    return _draining.is_set() or _held.is_set()


def hands_back() -> bool:
    """Whether running jobs are to be saved and given back."""
    return _draining.is_set() or _handing_back.is_set()
