"""A job's story as Server-Sent Events: replayed from Postgres, followed by Redis' doorbell.

Redis only says when to look; while it is away the stream looks every few seconds by itself.
"""

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC

from starlette.concurrency import run_in_threadpool

from app.database import new_session
from app.jobs import events
from app.jobs.doorbell import listening
from app.jobs.models import TERMINAL, Job, JobEvent
from app.metrics.api import open_stream
from app.settings import get_settings

KEEP_ALIVE_SECONDS = 15.0
# Events read at a time.
PAGE = 500


async def follow(job_id: str, after: int) -> AsyncIterator[str]:
    """SSE text from event number `after` on; ends after the terminal event."""
    last = after
    ends_at = time.monotonic() + get_settings().event_stream_seconds
    quiet_since = time.monotonic()
    with open_stream():
        async with listening(job_id) as doorbell:
            while time.monotonic() < ends_at:
                batch, ended = await run_in_threadpool(_read, job_id, last)
                for event in batch:
                    yield _format(event)
                    last = event.seq
                if ended:
                    return
                if batch:
                    quiet_since = time.monotonic()
                elif time.monotonic() - quiet_since > KEEP_ALIVE_SECONDS:
                    yield ": keep-alive\n\n"
                    quiet_since = time.monotonic()
                if len(batch) < PAGE:
                    await doorbell.rest()


def _read(job_id: str, after: int) -> tuple[list[JobEvent], bool]:
    """The next events, and whether there will be no others."""
    with new_session() as session:
        batch = events.read_after(session, job_id, after, PAGE)
        if batch:
            return batch, _is_terminal(batch[-1])
        # One that has seen the end asks again, or the job is gone.
        job = session.get(Job, job_id)
        return [], job is None or (job.status in TERMINAL and job.event_seq <= after)


def _is_terminal(event: JobEvent) -> bool:
    return event.type == "status" and event.payload["status"] in TERMINAL


def _format(event: JobEvent) -> str:
    at = event.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    data = json.dumps({"created_at": at, **event.payload})
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n"
