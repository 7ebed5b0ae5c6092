"""What one API process counts itself: requests, streams, its connections to Postgres.

Labels name routes by their template, never by a path that was asked for, and no customer.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from prometheus_client import ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.pool import QueuePool

from app.database import get_engine
from app.metrics.described import ANSWER_SECONDS, Group

API = Group()
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_REQUESTS = API.counter(
    "lorawright_http_requests_total",
    "Requests answered. `route` is the template of the path, `none` where the answer came before "
    "a route was found (no such path, too many requests, a body too large); `status` is `2xx`, "
    "`3xx`, `4xx` or `5xx`.",
    ["method", "route", "status"],
)
_SECONDS = API.histogram(
    "lorawright_http_request_seconds",
    "From a request's first byte to the first of its answer. Those whose client asked to wait "
    "(`Prefer: wait`) are left out.",
    ["method", "route"],
    buckets=ANSWER_SECONDS,
)
_IN_FLIGHT = API.gauge(
    "lorawright_http_requests_in_flight", "Requests being answered, open event streams among them."
)
_STREAMS = API.gauge("lorawright_event_streams_open", "Event streams of jobs that are open.")
_RATE_LIMITED = API.counter(
    "lorawright_http_rate_limited_total", "Requests refused with 429, as their account made many."
)
_POOL_USED = API.read(
    "lorawright_database_connections_in_use",
    "gauge",
    "Connections to Postgres that the process uses now.",
)
_POOL_SIZE = API.read(
    "lorawright_database_connections_max",
    "gauge",
    "Those it may have (`LORAWRIGHT_DATABASE_POOL_SIZE`).",
)
_BUILD = API.gauge("lorawright_build_info", "Always 1; the version is in the label.", ["version"])
_BUILD.labels(version("lorawright")).set(1)


class _Pool(Collector):
    def collect(self) -> Iterator[Metric]:
        pool = get_engine().pool
        assert isinstance(pool, QueuePool), "the engine is made with a pool of fixed size"
        yield _POOL_USED.of({(): pool.checkedout()})
        yield _POOL_SIZE.of({(): pool.size()})

    def describe(self) -> Iterator[Metric]:
        # Without it the registry would collect to learn the names, and so connect at import.
        yield _POOL_USED.of({})
        yield _POOL_SIZE.of({})


API.registry.register(_Pool())
# `process_*`: memory, CPU time, open files.
ProcessCollector(registry=API.registry)


class Answering:
    """One request, from its first byte to its last."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._scope = scope
        _IN_FLIGHT.inc()

    def ended(self, status: int, seconds: float | None) -> None:
        """It has been answered.

        Args:
            seconds: until the answer began; None leaves it out.
        """
        _IN_FLIGHT.dec()
        method, route = self._scope["method"], route_of(self._scope)
        if method not in METHODS:
            method = "other"
        _REQUESTS.labels(method, route, f"{status // 100}xx").inc()
        if seconds is not None:
            _SECONDS.labels(method, route).observe(seconds)


def route_of(scope: Mapping[str, Any]) -> str:
    """The template of the path that was asked for: as many values as there are routes."""
    route = scope.get("route")
    if route is not None:
        return str(route.path)
    return "/static" if scope["path"].startswith("/static/") else "none"


@contextmanager
def open_stream() -> Iterator[None]:
    """Count an event stream while it is open."""
    with _STREAMS.track_inprogress():
        yield


def rate_limited() -> None:
    """A request was refused, as its account made too many."""
    _RATE_LIMITED.inc()
