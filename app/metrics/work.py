"""What Postgres knows of queues, jobs, workers and webhooks, read when somebody asks.

Every API process tells the same, so it does not matter which one is asked. It is read at most once
in `CACHED_SECONDS`, whoever asks, over a connection of its own: a pool that is used up is just what
somebody wants to see here.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong

import redis
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.broker import MAINTENANCE, WORK_QUEUES, get_redis
from app.errors import LorawrightError
from app.jobs import backlog
from app.metrics.described import Group, Values
from app.settings import get_settings
from app.storage import get_store

log = logging.getLogger(__name__)

CACHED_SECONDS = 5.0
# Whoever asks has little patience, and nobody's work may wait for a question.
ANSWER_SECONDS = 3.0
CONNECT_SECONDS = 2
STATEMENT_MILLISECONDS = 3000
# Of one account's waiting jobs, how many are counted; of webhooks, ten times as many.
COUNTED = 10_000
TRIED_OFTEN = 3

WORK = Group()
_UP = WORK.read(
    "lorawright_dependency_up",
    "gauge",
    "1 where `postgres`, `redis` or `s3` answers the API.",
    ["dependency"],
)
_WAITING = WORK.read(
    "lorawright_queue_waiting_jobs",
    "gauge",
    "Jobs that wait for a worker, those of suspended accounts left out; of one account at most "
    "10,000 are counted.",
    ["queue"],
)
_OLDEST = WORK.read(
    "lorawright_queue_oldest_seconds",
    "gauge",
    "How long the one that could have been claimed first has waited; 0 if none waits.",
    ["queue"],
)
_RUNNING = WORK.read(
    "lorawright_queue_running_jobs", "gauge", "Jobs that a worker holds.", ["queue"]
)
_SECONDS = WORK.read(
    "lorawright_queue_seconds",
    "gauge",
    "What the waiting jobs will take one worker, by what such jobs took lately: the signal to "
    "scale by.",
    ["queue"],
)
_WORKERS = WORK.read(
    "lorawright_workers",
    "gauge",
    "Worker processes that serve a queue and were heard of within a lease, by `state`: `ready`, "
    "or `resting` as an operator ordered.",
    ["queue", "state"],
)
_ENDED = WORK.read(
    "lorawright_jobs_ended_total",
    "counter",
    "Jobs that have ended, by `outcome` (`succeeded`, `failed`, `canceled`) and, of failed ones, "
    "the `code` of their error. Half a minute late.",
    ["kind", "outcome", "code"],
)
_GPU_SECONDS = WORK.read(
    "lorawright_jobs_gpu_seconds_total", "counter", "GPU seconds of ended jobs.", ["kind"]
)
_RUN_SECONDS = WORK.read(
    "lorawright_jobs_run_seconds_total",
    "counter",
    "Seconds of ended jobs from their first start to their end.",
    ["kind"],
)
_WAIT_SECONDS = WORK.read(
    "lorawright_jobs_wait_seconds_total",
    "counter",
    "Seconds of ended jobs from their submission to their first start.",
    ["kind"],
)
_SWEEP_AGE = WORK.read(
    "lorawright_sweep_age_seconds", "gauge", "How long ago a sweep came to its end; +Inf if never."
)
_PENDING = WORK.read(
    "lorawright_webhooks_pending", "gauge", "Deliveries that have not reached their receiver yet."
)
_FAILING = WORK.read(
    "lorawright_webhooks_failing",
    "gauge",
    f"Those of them that were tried {TRIED_OFTEN} times or more.",
)
_OVERDUE = WORK.read(
    "lorawright_webhooks_overdue_seconds",
    "gauge",
    "How long the one that is due longest should have been sent already; 0 if none is due.",
)
_DISABLED = WORK.read(
    "lorawright_webhook_endpoints_disabled", "gauge", "Endpoints that nothing is sent to any more."
)

# Along the lines, whose index holds what is counted. A job that waits again has waited since it was
# due; of one that a stopping worker gave back, that is not known, and it goes first anyway.
_LINES = text("""
    SELECT line.queue, sum(counted.waiting), extract(epoch FROM now() - min(head.since))
    FROM job_lines AS line JOIN accounts ON accounts.id = line.account_id
    CROSS JOIN LATERAL (
        SELECT count(*) AS waiting FROM (
            SELECT FROM jobs WHERE jobs.queue = line.queue AND jobs.account_id = line.account_id
                AND jobs.priority = line.priority AND status = 'queued' LIMIT :counted
        ) AS those
    ) AS counted
    LEFT JOIN LATERAL (
        SELECT coalesce(not_before, created_at) AS since FROM jobs
        WHERE jobs.queue = line.queue AND jobs.account_id = line.account_id
            AND jobs.priority = line.priority AND status = 'queued'
            AND (not_before <= now() OR (not_before IS NULL AND attempt = 0))
        ORDER BY created_at, id LIMIT 1
    ) AS head ON true
    WHERE line.waiting AND accounts.suspended_at IS NULL
    GROUP BY line.queue
""")
_AT_WORK = text("SELECT queue, count(*) FROM jobs WHERE status = 'running' GROUP BY queue")
_ALIVE = text("""
    SELECT queue, "order" IS NULL, count(*)
    FROM workers CROSS JOIN LATERAL jsonb_array_elements_text(queues) AS queue
    WHERE heartbeat_at > now() - :lease_seconds * interval '1 s' GROUP BY 1, 2
""")
_TOTALS = text("""
    SELECT kind, status, error_code, jobs, gpu_seconds, run_seconds, wait_seconds FROM job_totals
""")
_SWEPT = text("SELECT extract(epoch FROM now() - swept_at) FROM sweeper")
_DELIVERIES = text("""
    SELECT count(*), count(*) FILTER (WHERE attempt >= :often),
        extract(epoch FROM now() - min(due_at) FILTER (WHERE due_at <= now()))
    FROM (
        SELECT attempt, due_at FROM webhook_deliveries
        JOIN webhook_endpoints ON webhook_endpoints.id = endpoint_id
        WHERE status = 'pending' AND disabled_at IS NULL LIMIT :counted
    ) AS pending
""")
_OFF = text("SELECT count(*) FROM webhook_endpoints WHERE disabled_at IS NOT NULL")


class Work(Collector):
    """Reads, and remembers what it has read for a few seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._known: Sequence[Metric] = ()
        self._servers = {
            "redis": _Server(lambda: get_redis().ping()),
            "s3": _Server(lambda: get_store().check()),
        }

    def collect(self) -> Iterator[Metric]:
        """Everything, as it was a few seconds ago at most."""
        with self._lock:
            if time.monotonic() - self._read_at > CACHED_SECONDS:
                self._known = list(self._read())
                self._read_at = time.monotonic()
            yield from self._known

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are looked up here only by who asks."""
        return iter(())

    def forget(self) -> None:
        """Read again at the next question."""
        self._read_at = float("-inf")

    def _read(self) -> Iterator[Metric]:
        up: Values = {(name,): float(server.answers()) for name, server in self._servers.items()}
        try:
            found = _read_database()
        except SQLAlchemyError as error:
            log.warning("Postgres is not read for metrics: %s", error)
            found = None
        yield _UP.of({("postgres",): float(found is not None), **up})
        yield from found or ()


class _Server:
    """One that may hang: it is asked in a thread, and never twice at once."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._asked: Future[object] | None = None

    def answers(self) -> bool:
        """Whether it does so in time."""
        if self._asked is None:
            self._asked = _askers.submit(self._ask)
        try:
            self._asked.result(ANSWER_SECONDS)
        except TookTooLong:
            # Its answer, should there be one, is the next question's.
            if not self._asked.done():
                return False
        except (redis.RedisError, LorawrightError, OSError):
            self._asked = None
            return False
        self._asked = None
        return True


_askers = ThreadPoolExecutor(2, thread_name_prefix="metrics")


def _read_database() -> list[Metric]:
    engine = create_engine(
        get_settings().database_url,
        poolclass=NullPool,
        connect_args={
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "lorawright-metrics",
        },
    )
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL statement_timeout = {STATEMENT_MILLISECONDS}"))
        connection.execute(text("SET TRANSACTION READ ONLY"))
        return [
            *_queues(connection),
            _workers(connection),
            *_totals(connection),
            _SWEEP_AGE.of({(): _sweep_age(connection)}),
            *_webhooks(connection),
        ]


def _queues(connection: Connection) -> Iterator[Metric]:
    waiting: Values = {(queue,): 0.0 for queue in WORK_QUEUES}
    oldest, running = dict(waiting), dict(waiting)
    for queue, count, since in connection.execute(_LINES, {"counted": COUNTED}):
        waiting[queue,] = float(count)
        oldest[queue,] = max(0.0, float(since or 0))
    running |= {(queue,): float(count) for queue, count in connection.execute(_AT_WORK)}
    with Session(connection) as session:
        seconds: Values = {(queue,): told for queue, told in backlog.queue_seconds(session).items()}
    yield _WAITING.of(waiting)
    yield _OLDEST.of(oldest)
    yield _RUNNING.of(running)
    yield _SECONDS.of(seconds)


def _workers(connection: Connection) -> Metric:
    alive: Values = {
        (queue, state): 0.0
        for queue in (*WORK_QUEUES, MAINTENANCE)
        for state in ("ready", "resting")
    }
    lease = {"lease_seconds": get_settings().lease_seconds}
    for queue, ready, count in connection.execute(_ALIVE, lease):
        alive[queue, "ready" if ready else "resting"] = float(count)
    return _WORKERS.of(alive)


def _totals(connection: Connection) -> Iterator[Metric]:
    ended: Values = {}
    sums: tuple[Values, ...] = ({}, {}, {})
    for kind, status, code, jobs, *seconds in connection.execute(_TOTALS):
        ended[kind, status, code] = float(jobs)
        for total, more in zip(sums, seconds, strict=True):
            total[kind,] = total.get((kind,), 0.0) + more
    yield _ENDED.of(ended)
    for family, total in zip((_GPU_SECONDS, _RUN_SECONDS, _WAIT_SECONDS), sums, strict=True):
        yield family.of(total)


def _sweep_age(connection: Connection) -> float:
    age = connection.execute(_SWEPT).scalar()
    return float("inf") if age is None else max(0.0, float(age))


def _webhooks(connection: Connection) -> Iterator[Metric]:
    pending, failing, overdue = connection.execute(
        _DELIVERIES, {"often": TRIED_OFTEN, "counted": 10 * COUNTED}
    ).one()
    yield _PENDING.of({(): pending})
    yield _FAILING.of({(): failing})
    yield _OVERDUE.of({(): max(0.0, float(overdue or 0))})
    yield _DISABLED.of({(): connection.execute(_OFF).scalar_one()})


work = Work()
WORK.registry.register(work)
