"""One connection to Redis rings for every stream of a process, and heals."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from app.broker import announce, get_redis, job_channel
from app.cli.embedded import EmbeddedServers
from app.jobs import doorbell
from app.jobs.doorbell import listening

pytestmark = pytest.mark.usefixtures("clean")
# Longer than any ring takes; shorter than looking without one.
PATIENCE_SECONDS = 1.5


@asynccontextmanager
async def closing() -> AsyncIterator[None]:
    try:
        yield
    finally:
        await doorbell.close()


async def rings_within(bell: doorbell.Doorbell, seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether it rang, rather than that its own patience ended."""
    began = time.monotonic()
    await bell.rest(seconds)
    return time.monotonic() - began < seconds


def test_a_doorbell_rings_for_its_own_job_alone() -> None:
    async def follow() -> tuple[bool, bool]:
        async with closing(), listening("gen_a") as a, listening("gen_b") as b:
            await a.rest(0.1)
            await b.rest(0.1)
            await asyncio.to_thread(announce, "gen_a")
            return await rings_within(a), await rings_within(b, 0.2)

    assert asyncio.run(follow()) == (True, False)


def test_a_ring_between_two_rests_is_not_lost() -> None:
    async def follow() -> bool:
        async with closing(), listening("gen_a") as bell, listening("gen_a") as other:
            await bell.rest(0.1)
            await other.rest(0.1)
            await asyncio.to_thread(announce, "gen_a")
            assert await rings_within(other)
            return await rings_within(bell)

    assert asyncio.run(follow())


def connections() -> int:
    """How many this process's Redis database has; other databases of the server may be others'."""
    ours = get_redis().connection_pool.connection_kwargs["db"]
    return sum(each["db"] == str(ours) for each in get_redis().client_list())


def test_a_thousand_followers_share_one_connection() -> None:
    before = connections()
    names = [f"gen_{n}" for n in range(1000)]

    async def follow() -> tuple[int, int]:
        async with closing(), AsyncExitStack() as stack:
            bells = [await stack.enter_async_context(listening(name)) for name in names]
            during = await asyncio.to_thread(connections)
            await bells[-1].rest(0.1)
            await asyncio.to_thread(announce, "gen_999")
            assert await rings_within(bells[-1])
        channels = [job_channel(name) for name in names]
        followers = await asyncio.to_thread(get_redis().pubsub_numsub, *channels)
        return during - before, sum(count for _, count in followers)

    assert asyncio.run(follow()) == (1, 0)


@pytest.mark.own_servers
def test_followers_hear_again_after_redis_came_back(clean: EmbeddedServers) -> None:
    async def follow() -> bool:
        assert clean.redis is not None
        async with closing(), listening("gen_a") as bell:
            # Not in a thread of its own: a server ends with the thread that has started it.
            clean.redis.kill()
            clean.redis.stop()
            clean.redis.start()
            clean.redis.wait_ready()
            for _ in range(10):
                await bell.rest(0.5)
                await asyncio.to_thread(announce, "gen_a")
                if await rings_within(bell, 0.4):
                    return True
        return False

    assert asyncio.run(follow())
