"""Requests a minute of each account: counted in Redis, told in every answer.

Headers as in draft-ietf-httpapi-ratelimit-headers-10. While Redis is away nothing is counted and
nobody is refused: a limit is a convenience, an answer is not.
"""

import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from redis.exceptions import RedisError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.accounts import keys
from app.accounts.models import Account
from app.accounts.quotas import REQUESTS
from app.async_redis import async_redis
from app.database import transaction
from app.errors import RateLimited
from app.metrics.api import rate_limited
from app.settings import Settings
from app.web.browser import session_of
from app.web.problems import from_domain

log = logging.getLogger(__name__)

WINDOW_SECONDS = 60
# A minute's count slides into the next: what is left of the last minute counts by its share.
_COUNT = """
local now = redis.call('TIME')
local seconds = tonumber(now[1]) + tonumber(now[2]) / 1000000
local window, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local number = math.floor(seconds / window)
local gone = seconds / window - number
local current = tonumber(redis.call('GET', KEYS[1] .. ':' .. number) or '0')
local last = tonumber(redis.call('GET', KEYS[1] .. ':' .. (number - 1)) or '0')
local used = last * (1 - gone) + current
local reset = math.ceil(window * (1 - gone))
if used + 1 > limit then
  return {0, 0, reset}
end
redis.call('INCR', KEYS[1] .. ':' .. number)
redis.call('EXPIRE', KEYS[1] .. ':' .. number, 2 * window)
return {1, math.floor(limit - used - 1), reset}
"""
# Whose a key is hardly ever changes; that it has been revoked is seen where it is checked. An
# account's own limit is heard of as late as that.
KNOWN_SECONDS = 30.0
KNOWN_KEYS = 10_000
# How long Redis is left alone after it did not answer.
REST_SECONDS = 5.0

Find = Callable[[Session, str], Account | None]


@dataclass(frozen=True)
class _Caller:
    account_id: str
    limit: int


@dataclass(frozen=True)
class _Count:
    limit: int
    allowed: bool
    left: int
    reset_seconds: int


class RateLimit:
    """Answers 429 to an account that asks more often than it may."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._default = settings.requests_per_minute
        self._known: OrderedDict[bytes, tuple[float, _Caller | None]] = OrderedDict()
        self._rests_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        count = await self._count(scope)
        if count is None:
            await self.app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["RateLimit-Policy"] = f'"requests";q={count.limit};w={WINDOW_SECONDS}'
                headers["RateLimit"] = f'"requests";r={count.left};t={count.reset_seconds}'
            await send(message)

        if count.allowed:
            await self.app(scope, receive, told)
            return
        rate_limited()
        error = RateLimited(
            f"The account has made {count.limit} requests within {WINDOW_SECONDS} s; its limit "
            f"(by default LORAWRIGHT_REQUESTS_PER_MINUTE) is {count.limit}"
        )
        response = from_domain(Request(scope), error)
        # By then at least one request of the last minute counts no more.
        response.headers["Retry-After"] = str(
            max(1, math.ceil(min(count.reset_seconds, WINDOW_SECONDS / count.limit)))
        )
        await response(scope, receive, told)

    async def _count(self, scope: Scope) -> _Count | None:
        """None where nothing is counted: no key, no limit, or no Redis."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            return None
        if time.monotonic() < self._rests_until:
            return None
        caller = await self._caller(scope)
        if caller is None or not caller.limit:
            return None
        try:
            found = await async_redis().eval(
                _COUNT, 1, f"lorawright:rate:{{{caller.account_id}}}", WINDOW_SECONDS, caller.limit
            )
        except (RedisError, OSError) as error:
            log.warning("requests are not counted: %s", error)
            self._rests_until = time.monotonic() + REST_SECONDS
            return None
        return _Count(caller.limit, bool(found[0]), int(found[1]), int(found[2]))

    async def _caller(self, scope: Scope) -> _Caller | None:
        kind, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        find: Find
        if kind.lower() == "bearer":
            find, told = keys.account_of_secret, secret
        elif (visit := session_of(HTTPConnection(scope))) is not None and visit.key_id:
            find, told = keys.account_of_key, visit.key_id
        else:
            return None
        digest = hashlib.sha256(told.encode()).digest()
        known = self._known.get(digest)
        if known is None or known[0] < time.monotonic():
            caller = await run_in_threadpool(_look_up, find, told, self._default)
            known = (time.monotonic() + KNOWN_SECONDS, caller)
            # A key that is unknown may be made a moment later; guesses must not fill the memory.
            if caller is not None:
                self._known[digest] = known
                if len(self._known) > KNOWN_KEYS:
                    self._known.popitem(last=False)
        return known[1]


def _look_up(find: Find, told: str, default: int) -> _Caller | None:
    with transaction() as session:
        account = find(session, told)
        if account is None:
            return None
        # Null is without limit, as of every quota.
        return _Caller(account.id, int(account.limits.get(REQUESTS, default) or 0))
