"""Wait for a job to end without holding a thread, a connection or a transaction meanwhile."""

import time
from collections.abc import Awaitable, Callable

from starlette.concurrency import run_in_threadpool

from app.database import new_session
from app.jobs.doorbell import listening
from app.jobs.models import TERMINAL, Job

# How soon a client that has gone is noticed.
LOOK_SECONDS = 2.0


async def wait_until_ended(
    job_id: str, seconds: float, gone: Callable[[], Awaitable[bool]] | None = None
) -> bool:
    """Whether the job ended within so many seconds.

    Args:
        gone: asked now and then whether anybody still waits; False is answered if not.
    """
    ends_at = time.monotonic() + seconds
    # Before the first look, or an end between the two would not be heard.
    async with listening(job_id) as doorbell:
        while True:
            if await run_in_threadpool(_has_ended, job_id):
                return True
            left = ends_at - time.monotonic()
            if left <= 0 or (gone is not None and await gone()):
                return False
            await doorbell.rest(min(left, LOOK_SECONDS))


def _has_ended(job_id: str) -> bool:
    with new_session() as session:
        job = session.get(Job, job_id)
        return job is None or job.status in TERMINAL
