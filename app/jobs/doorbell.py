"""Rest until a job has news: Redis rings, and while it is away one looks every few seconds.

However many streams and waiting requests a process has, they share one connection to Redis.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from weakref import WeakKeyDictionary

import redis.asyncio as redis_async
from redis.exceptions import RedisError

from app.broker import job_channel
from app.settings import get_settings

log = logging.getLogger(__name__)

# Without Redis, how often to look; with it, how often to look all the same.
POLL_SECONDS = 2.0
SURE_SECONDS = 10.0
RECONNECT_SECONDS = 1.0
# Subscribed to as long as there is a connection: without any channel it could not be read.
OWN_CHANNEL = "lorawright:doorbell"


class Doorbell:
    """Rings when one job has news."""

    def __init__(self, switchboard: "_Switchboard") -> None:
        self._switchboard = switchboard
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake whoever rests."""
        self._rung.set()

    async def rest(self, seconds: float | None = None) -> None:
        """Return at the next ring since the last rest, or after so many seconds at most."""
        longest = SURE_SECONDS if self._switchboard.is_connected else POLL_SECONDS
        with suppress(TimeoutError):
            await asyncio.wait_for(
                self._rung.wait(), longest if seconds is None else min(seconds, longest)
            )
        self._rung.clear()


@asynccontextmanager
async def listening(job_id: str) -> AsyncIterator[Doorbell]:
    """Follow a job's news while the block runs. What comes after its begin is not missed."""
    loop = asyncio.get_running_loop()
    switchboard = _switchboards.get(loop)
    if switchboard is None:
        switchboard = _switchboards[loop] = _Switchboard()
    channel = job_channel(job_id)
    doorbell = Doorbell(switchboard)
    await switchboard.add(channel, doorbell)
    try:
        yield doorbell
    finally:
        await switchboard.remove(channel, doorbell)


async def close() -> None:
    """Give up the loop's connection; for the end of the process."""
    switchboard = _switchboards.pop(asyncio.get_running_loop(), None)
    if switchboard is not None:
        await switchboard.close()


class _Switchboard:
    """One connection that listens for all doorbells of an event loop."""

    def __init__(self) -> None:
        self._doorbells: dict[str, set[Doorbell]] = {}
        self._pubsub: redis_async.client.PubSub | None = None
        self._changes = asyncio.Lock()
        self._reader = asyncio.create_task(self._read_for_ever(), name="doorbells")
        self._first_try = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        return self._pubsub is not None

    async def add(self, channel: str, doorbell: Doorbell) -> None:
        # Before the first connection a subscription would be lost, and the caller not know it.
        await self._first_try.wait()
        async with self._changes:
            known = channel in self._doorbells
            self._doorbells.setdefault(channel, set()).add(doorbell)
            if not known and self._pubsub is not None:
                # A failure is the reader's to meet; it subscribes to all when it has reconnected.
                with suppress(RedisError, OSError):
                    await self._pubsub.subscribe(channel)

    async def remove(self, channel: str, doorbell: Doorbell) -> None:
        async with self._changes:
            rest = self._doorbells.get(channel, set())
            rest.discard(doorbell)
            if not rest:
                self._doorbells.pop(channel, None)
                if self._pubsub is not None:
                    with suppress(RedisError, OSError):
                        await self._pubsub.unsubscribe(channel)

    async def close(self) -> None:
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader

    async def _read_for_ever(self) -> None:
        while True:
            try:
                await self._read_until_lost()
            except (RedisError, OSError) as error:
                log.warning("following jobs without Redis: %s", error)
            self._first_try.set()
            self._ring_all()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _read_until_lost(self) -> None:
        # No time limit on reading: hours may pass without news. A dead peer is told by keep-alive.
        client = redis_async.Redis.from_url(
            get_settings().redis_url,
            socket_connect_timeout=2,
            socket_timeout=None,
            socket_keepalive=True,
            retry=None,
        )
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        try:
            async with self._changes:
                await pubsub.subscribe(OWN_CHANNEL, *self._doorbells)
                self._pubsub = pubsub
            self._first_try.set()
            # What was announced while there was no connection.
            self._ring_all()
            while True:
                message = await pubsub.get_message(timeout=None)
                if message is not None:
                    self._ring(message["channel"].decode())
        finally:
            self._pubsub = None
            with suppress(RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]
                await client.aclose()

    def _ring(self, channel: str) -> None:
        for doorbell in self._doorbells.get(channel, ()):
            doorbell.ring()

    def _ring_all(self) -> None:
        for channel in self._doorbells:
            self._ring(channel)


_switchboards: WeakKeyDictionary[asyncio.AbstractEventLoop, _Switchboard] = WeakKeyDictionary()
