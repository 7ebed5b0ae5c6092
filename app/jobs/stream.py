"""A job's story as Server-Sent Events: replayed from Postgres, followed by Redis' doorbell.

Redis only says when to look; while it is away the stream looks every few seconds by itself.
"""

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC

import anyio
import redis.asyncio as redis_async
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from app.broker import job_channel
from app.database import new_session
from app.jobs import events
from app.jobs.models import TERMINAL, Job, JobEvent
from app.settings import get_settings

log = logging.getLogger(__name__)

# Without Redis, how often to look; with it, how often to look all the same.
POLL_SECONDS = 2.0
KEEP_ALIVE_SECONDS = 15.0


async def follow(job_id: str, after: int) -> AsyncIterator[str]:
    """SSE text from event number `after` on; ends after the terminal event."""
    last = after
    ends_at = time.monotonic() + get_settings().event_stream_seconds
    quiet_since = time.monotonic()
    async with AsyncExitStack() as stack:
        doorbell = await _subscribe(stack, job_id)
        while time.monotonic() < ends_at:
            batch, ended = await run_in_threadpool(_read, job_id, last)
            for event in batch:
                yield _format(event)
                last = event.seq
            if batch:
                quiet_since = time.monotonic()
                continue
            if ended:
                return
            if time.monotonic() - quiet_since > KEEP_ALIVE_SECONDS:
                yield ": keep-alive\n\n"
                quiet_since = time.monotonic()
            await _wait(doorbell)


async def wait_for_end(job_id: str, seconds: float) -> None:
    """Return when a job has ended, or after so long; no thread waits meanwhile."""
    ends_at = time.monotonic() + seconds
    async with AsyncExitStack() as stack:
        doorbell = await _subscribe(stack, job_id)
        while not await run_in_threadpool(_has_ended, job_id):
            left = ends_at - time.monotonic()
            if left <= 0:
                return
            with anyio.move_on_after(left):
                await _wait(doorbell)


async def _subscribe(stack: AsyncExitStack, job_id: str) -> redis_async.client.PubSub | None:
    client = redis_async.Redis.from_url(
        get_settings().redis_url, socket_connect_timeout=2, socket_timeout=None
    )
    stack.push_async_callback(client.aclose)
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    stack.push_async_callback(pubsub.aclose)
    try:
        await pubsub.subscribe(job_channel(job_id))
    except (RedisError, OSError) as error:
        log.warning("following %s without Redis: %s", job_id, error)
        return None
    return pubsub


async def _wait(doorbell: redis_async.client.PubSub | None) -> None:
    if doorbell is not None:
        with suppress(RedisError, OSError):
            await doorbell.get_message(ignore_subscribe_messages=True, timeout=POLL_SECONDS)
            return
    await anyio.sleep(POLL_SECONDS)


def _has_ended(job_id: str) -> bool:
    with new_session() as session:
        job = session.get(Job, job_id)
        return job is None or job.status in TERMINAL


def _read(job_id: str, after: int) -> tuple[list[JobEvent], bool]:
    """The next events, and whether the job had ended before they were read."""
    with new_session() as session:
        job = session.get(Job, job_id)
        ended = job is None or job.status in TERMINAL
        return events.read_after(session, job_id, after), ended


def _format(event: JobEvent) -> str:
    at = event.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    data = json.dumps({"created_at": at, **event.payload})
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n"
