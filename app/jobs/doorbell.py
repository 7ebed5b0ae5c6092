"""Rest until a job has news: Redis rings, and while it is away one looks every few seconds."""

import logging
from contextlib import AsyncExitStack, suppress

import anyio
import redis.asyncio as redis_async
from redis.exceptions import RedisError

from app.broker import job_channel
from app.settings import get_settings

log = logging.getLogger(__name__)

Doorbell = redis_async.client.PubSub
# Without Redis, how often to look; with it, how often to look all the same.
POLL_SECONDS = 2.0


async def listen(stack: AsyncExitStack, job_id: str) -> Doorbell | None:
    """Follow a job's news until the stack closes; None while Redis is away."""
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


async def rest(doorbell: Doorbell | None, seconds: float = POLL_SECONDS) -> None:
    """Return at the next ring, or after so many seconds."""
    if doorbell is not None:
        with suppress(RedisError, OSError):
            await doorbell.get_message(ignore_subscribe_messages=True, timeout=seconds)
            return
    await anyio.sleep(seconds)
