"""Which servers the tests use: embedded ones, or others that are plainly meant for tests.

Where LORAWRIGHT_DATABASE_URL, LORAWRIGHT_REDIS_URL or LORAWRIGHT_S3_ENDPOINT_URL is set, that
server is used. Tests empty tables, Redis and bucket again and again, so they take only a database
whose name ends in `_test`, a Redis database that is empty, and a bucket whose name ends in `-test`;
each test process derives names of its own from these.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import kombu.pools
import psycopg
import redis
from psycopg import sql
from sqlalchemy import QueuePool, make_url, text

from app import broker, database, settings, storage
from app.cli.embedded import EmbeddedServers
from app.cli.stack.servers import DATABASE_URL, REDIS_URL, S3_ENDPOINT_URL
from app.database import get_engine
from app.jobs import pace
from app.tables import metadata

BUCKET = "LORAWRIGHT_S3_BUCKET"
GIVEN_BACK_SECONDS = 5.0
DATABASE_ENDS, BUCKET_ENDS = "_test", "-test"


class NotForTests(Exception):
    """A server that the environment names may hold what somebody still needs."""


def named(environ: Mapping[str, str], process: str | None = None) -> dict[str, str]:
    """The variables of the servers that `environ` names, as one test process may use them.

    Args:
        process: what pytest-xdist calls it (`gw0`, `gw1`, …); None where there is one alone.

    Raises:
        NotForTests: a database or bucket whose name does not say that it is for tests.
    """
    told = {name: value for name, value in environ.items() if name.startswith("LORAWRIGHT_")}
    if DATABASE_URL in told:
        told[DATABASE_URL] = _database(told[DATABASE_URL], process)
    if REDIS_URL in told:
        told[REDIS_URL] = _redis_database(told[REDIS_URL], process)
    if S3_ENDPOINT_URL in told:
        told[BUCKET] = _bucket(told.get(BUCKET, "lorawright-test"), process)
    return told


def _database(address: str, process: str | None) -> str:
    url = make_url(address)
    name = url.database or ""
    if not name.endswith(DATABASE_ENDS):
        raise NotForTests(
            f"{DATABASE_URL} names the database {name!r}. Tests empty every table, so they take "
            f"only one whose name ends in {DATABASE_ENDS!r}, as lorawright{DATABASE_ENDS}"
        )
    if process is not None:
        url = url.set(database=f"{name.removesuffix(DATABASE_ENDS)}_{process}{DATABASE_ENDS}")
    return url.render_as_string(hide_password=False)


def _redis_database(address: str, process: str | None) -> str:
    if process is None:
        return address
    parts = urlsplit(address)
    number = int(parts.path.strip("/") or 0) + int(process.removeprefix("gw"))
    return urlunsplit(parts._replace(path=f"/{number}"))


def _bucket(name: str, process: str | None) -> str:
    if not name.endswith(BUCKET_ENDS):
        raise NotForTests(
            f"{BUCKET} is {name!r}. Tests remove every object, so they take only a bucket whose "
            f"name ends in {BUCKET_ENDS!r}, as lorawright{BUCKET_ENDS}"
        )
    return name if process is None else f"{name.removesuffix(BUCKET_ENDS)}-{process}{BUCKET_ENDS}"


def require_empty_redis(address: str) -> None:
    """Make sure that flushing this Redis database loses nothing.

    Raises:
        NotForTests: it holds keys, or cannot be asked.
    """
    try:
        with redis.Redis.from_url(address, socket_connect_timeout=5) as client:
            keys = client.dbsize()
    except redis.RedisError as error:
        raise NotForTests(f"{REDIS_URL} is set, but: {error}") from error
    if keys:
        number = urlsplit(address).path.strip("/") or 0
        raise NotForTests(
            f"Redis database {number} of {REDIS_URL} holds {keys} keys. Tests flush it, so they "
            "take only an empty one; where the keys are those of a test run that was killed, "
            f"redis-cli -n {number} flushdb removes them"
        )


@contextmanager
def running(
    folder: Path, environ: Mapping[str, str], process: str | None
) -> Iterator[EmbeddedServers]:
    """The servers of one test process for a block: those that `environ` names, embedded others.

    Raises:
        NotForTests: a server that is named may hold what somebody still needs.
    """
    told = named(environ, process)
    with ExitStack() as stack:
        if DATABASE_URL in told and process is not None:
            stack.enter_context(_database_of_its_own(environ[DATABASE_URL], told[DATABASE_URL]))
        if REDIS_URL in told:
            require_empty_redis(told[REDIS_URL])
        servers = stack.enter_context(EmbeddedServers(folder, provided=told))
        if S3_ENDPOINT_URL in told:
            stack.enter_context(_emptied(storage.make_store(servers.settings())))
        if REDIS_URL in told:
            stack.callback(_flush, told[REDIS_URL])
        yield servers


@contextmanager
def _database_of_its_own(beside: str, address: str) -> Iterator[None]:
    """A new database on the server of another one; one that a killed run left is dropped first."""
    name = sql.Identifier(make_url(address).database or "")
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name)
    plain = beside.replace("postgresql+psycopg:", "postgresql:", 1)
    try:
        with psycopg.connect(plain, autocommit=True, connect_timeout=5) as connection:
            connection.execute(drop)
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
    except psycopg.Error as error:
        raise NotForTests(f"{DATABASE_URL} is set, but: {error}") from error
    yield
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(drop)


@contextmanager
def _emptied(store: storage.ObjectStore) -> Iterator[None]:
    store.delete(store.list_keys(""))
    yield
    store.delete(store.list_keys(""))


def _flush(address: str) -> None:
    with redis.Redis.from_url(address) as client:
        client.flushdb()


@contextmanager
def using(servers: EmbeddedServers) -> Iterator[None]:
    """This process, and those it starts with its environment, use these servers for a block."""
    before = {name: value for name, value in os.environ.items() if name.startswith("LORAWRIGHT_")}
    for name in [name for name in before if name.startswith("LORAWRIGHT_S3_")]:
        del os.environ[name]  # a bucket's name is not said again where it is the usual one
    os.environ |= servers.environment() | {
        "LORAWRIGHT_DEFAULT_BASE_MODEL": "emoji-64",
        "LORAWRIGHT_DEFAULT_CAPTIONER": "emoji-blip",
        "LORAWRIGHT_LOG_LEVEL": "warning",
    }
    _forget()
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("LORAWRIGHT_")]:
            del os.environ[name]
        os.environ |= before
        _forget()


def _forget() -> None:
    """Let go of everything that was made for other servers."""
    if get_engine.cache_info().currsize:
        close_connections()
    if broker.get_redis.cache_info().currsize:
        broker.get_redis().close()
    for cached in (settings.get_settings, broker.get_redis, storage.get_store, get_engine):
        cached.cache_clear()
    database._session_factory.cache_clear()
    broker.celery_app.conf.broker_url = settings.get_settings().redis_url
    # As after a fork: Celery has no other word for "connect anew, and to where you are told now".
    kombu.pools.reset()
    broker.celery_app._after_fork()


def close_connections() -> None:
    """Close those to Postgres, once a thread that a test has left behind has given its own back.

    One that comes back later comes to a pool that nobody closes, and is complained of by whichever
    test is running when it is collected.
    """
    ends = time.monotonic() + GIVEN_BACK_SECONDS
    pool = get_engine().pool
    while isinstance(pool, QueuePool) and pool.checkedout() and time.monotonic() < ends:
        time.sleep(0.01)
    get_engine().dispose()


def empty() -> None:
    """Empty tables, an empty broker, and nothing remembered of them, of the servers in use."""
    with get_engine().begin() as connection:
        names = ", ".join(table.name for table in metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {names} CASCADE"))
    broker.get_redis().flushdb()
    pace.kept.forget()
