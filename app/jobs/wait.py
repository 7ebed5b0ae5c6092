"""Wait for a job to end without holding a thread, a connection or a transaction meanwhile."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from starlette.concurrency import run_in_threadpool

from app.database import new_session
from app.jobs.doorbell import POLL_SECONDS, listen, rest
from app.jobs.models import TERMINAL, Job


async def wait_until_ended(
    job_id: str, seconds: float, gone: Callable[[], Awaitable[bool]] | None = None
) -> bool:
    """Whether the job ended within so many seconds.

    Args:
        gone: asked now and then whether anybody still waits; False is answered if not.
    """
    ends_at = time.monotonic() + seconds
    async with AsyncExitStack() as stack:
        # Before the first look, or an end between the two would not be heard.
        doorbell = await listen(stack, job_id)
        while True:
            if await run_in_threadpool(_has_ended, job_id):
                return True
            left = ends_at - time.monotonic()
            if left <= 0 or (gone is not None and await gone()):
                return False
            await rest(doorbell, min(left, POLL_SECONDS))


def _has_ended(job_id: str) -> bool:
    with new_session() as session:
        job = session.get(Job, job_id)
        return job is None or job.status in TERMINAL
