"""Whether this worker is stopping: one flag that the pool's children share with their parent.

Celery tells the parent of a stop; the job runs in a child. The event is made before the child is
forked, so both see the same one.
"""

import multiprocessing

_draining = multiprocessing.get_context("fork").Event()


def start_draining() -> None:
    """Claim no more, and bring running jobs to a safe point."""
    _draining.set()


def is_draining() -> bool:
    """Whether `start_draining` was called in the parent or here."""
    return _draining.is_set()
