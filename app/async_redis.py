"""Redis for code that must not wait in a thread: one client with short patience an event loop."""

import asyncio
from weakref import WeakKeyDictionary

import redis.asyncio as redis_async

from app.settings import get_settings

PATIENCE_SECONDS = 0.5

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, redis_async.Redis] = WeakKeyDictionary()


def async_redis() -> redis_async.Redis:
    """The running loop's client; made without asking Redis anything."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        _clients[loop] = redis_async.Redis.from_url(
            get_settings().redis_url,
            socket_connect_timeout=PATIENCE_SECONDS,
            socket_timeout=PATIENCE_SECONDS,
        )
    return _clients[loop]


async def close_async_redis() -> None:
    """Give up the loop's connections; for the end of the process."""
    client = _clients.pop(asyncio.get_running_loop(), None)
    if client is not None:
        await client.aclose()
