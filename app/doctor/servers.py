"""Postgres, Redis and storage: whether each answers, in a version and with settings that fit."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import redis
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.broker import MAINTENANCE, WORK_QUEUES, get_redis
from app.database import get_engine
from app.doctor.findings import Finding, ok, problem, warning
from app.errors import LorawrightError
from app.migrate import alembic_config
from app.settings import get_settings
from app.storage import ObjectStore, get_store

LEAST_POSTGRES = 15
LEAST_REDIS = (6, 2)
# Leases go by Postgres' clock, so a skew only makes times look odd; signatures of storage are
# refused from fifteen minutes on.
SKEW_WARNING_SECONDS, SKEW_PROBLEM_SECONDS = 5.0, 300.0
# As many doorbells of one queue mean that nobody answers them.
MANY_DOORBELLS = 10_000
PROBE_PREFIX = "doctor/"
PROBE_SECONDS = 10.0


def postgres() -> Iterator[Finding]:
    """What the database is and whether its schema is the code's."""
    try:
        with get_engine().connect() as connection:
            yield from _postgres_version(connection)
            yield from _postgres_settings(connection)
            yield from _postgres_clock(connection)
            yield from _schema(connection)
    except SQLAlchemyError as error:
        yield problem(
            "postgres",
            f"{_shown_url()} cannot be used: {_reason(error)}",
            "start it, or correct LORAWRIGHT_DATABASE_URL",
        )


def _postgres_version(connection: Connection) -> Iterator[Finding]:
    told = connection.scalar(text("SHOW server_version"))
    major = int(connection.scalar(text("SHOW server_version_num"))) // 10_000
    if major < LEAST_POSTGRES:
        yield problem(
            "postgres",
            f"version {told}; the least is {LEAST_POSTGRES}",
            f"move the database to Postgres {LEAST_POSTGRES} or newer",
        )
    else:
        yield ok("postgres", f"version {told} at {_shown_url()}")


def _postgres_settings(connection: Connection) -> Iterator[Finding]:
    if connection.scalar(text("SELECT pg_is_in_recovery()")):
        yield problem(
            "postgres",
            "this server is a standby and takes no writes",
            "name the primary in LORAWRIGHT_DATABASE_URL, or promote this one",
        )
    elif connection.scalar(text("SHOW transaction_read_only")) == "on":
        yield problem(
            "postgres",
            "transactions are read-only",
            "set default_transaction_read_only = off for this role and database",
        )
    isolation = connection.scalar(text("SHOW transaction_isolation"))
    if isolation != "read committed":
        yield problem(
            "postgres",
            f"transactions are {isolation}; claims rely on read committed",
            "set default_transaction_isolation = 'read committed'",
        )
    if connection.scalar(text("SHOW synchronous_commit")) == "off":
        yield warning(
            "postgres",
            "synchronous_commit is off: a crash forgets the newest commits",
            "set synchronous_commit = on, unless that is what you want",
        )
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        yield problem(
            "postgres",
            f"the database is encoded in {encoding}",
            "make it anew with ENCODING 'UTF8', and restore into it",
        )
    most = int(connection.scalar(text("SHOW max_connections")))
    pool = get_settings().database_pool_size
    if most < pool + 10:
        yield warning(
            "postgres",
            f"max_connections is {most}, and one API process alone keeps up to {pool}",
            "raise max_connections, put a pooler before Postgres, or lower "
            "LORAWRIGHT_DATABASE_POOL_SIZE",
        )


def _postgres_clock(connection: Connection) -> Iterator[Finding]:
    began = time.time()
    told = connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())"))
    yield _skew("postgres", float(told) - (began + time.time()) / 2)


def _schema(connection: Connection) -> Iterator[Finding]:
    script = ScriptDirectory.from_config(alembic_config(get_settings().database_url))
    head = script.get_current_head()
    try:
        with connection.begin_nested():
            found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    except DBAPIError:
        found = None
    if found == head:
        yield ok("schema", f"revision {head}, the newest that this code knows")
    elif found is None:
        yield problem("schema", "the database has no tables", "run `lorawright migrate`")
    elif _knows(script, found):
        yield problem(
            "schema",
            f"revision {found}; this code needs {head}",
            "run `lorawright migrate` with this version",
        )
    else:
        yield warning(
            "schema",
            f"revision {found} is newer than this code, whose newest is {head}",
            "in the middle of an upgrade that is as it should be; else bring this code up to date",
        )


def _knows(script: ScriptDirectory, revision: str) -> bool:
    try:
        return script.get_revision(revision) is not None
    except CommandError:
        return False


def broker() -> Iterator[Finding]:
    """What Redis is, and whether doorbells pile up in it."""
    try:
        client = get_redis()
        server = client.info("server")
        memory = client.info("memory")
        lengths = {queue: int(client.llen(queue)) for queue in (*WORK_QUEUES, MAINTENANCE)}
    except (redis.RedisError, OSError) as error:
        yield problem(
            "redis",
            f"it cannot be used: {error}",
            "start it, or correct LORAWRIGHT_REDIS_URL; until then jobs wait, and none is lost",
        )
        return
    version = str(server["redis_version"])
    # Valkey tells the version of Redis that it stands for.
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST_REDIS:
        least = ".".join(str(part) for part in LEAST_REDIS)
        yield problem(
            "redis", f"version {version}; the least is {least}", "move to a newer Redis, or Valkey"
        )
    else:
        yield ok("redis", f"version {version}")
    policy = memory.get("maxmemory_policy")
    if policy != "noeviction":
        yield problem(
            "redis",
            f"maxmemory-policy is {policy}: a full Redis would drop doorbells without a word",
            "set maxmemory-policy noeviction",
        )
    limit, used = int(memory.get("maxmemory") or 0), int(memory["used_memory"])
    if limit and used > 0.8 * limit:
        yield problem(
            "redis",
            f"{used} of {limit} bytes are used; when it is full no doorbell is taken",
            "raise maxmemory, or see what else is kept in this Redis",
        )
    for queue, length in lengths.items():
        if length > MANY_DOORBELLS:
            yield warning(
                "redis",
                f"{length} doorbells wait in {queue}: nobody answers them",
                f"start a worker with -Q {queue}, or delete the list: the sweeper rings again",
            )


def storage() -> Iterator[Finding]:
    """Whether objects can be put, had, listed and removed, also by presigned addresses."""
    store = get_store()
    bucket = get_settings().s3_bucket
    try:
        store.check()
        yield _skew("s3", (store.clock() - datetime.now(UTC)).total_seconds())
        yield from _round_trip(store)
        yield ok("s3", f"the bucket {bucket} can be written, read, listed and removed from")
    except LorawrightError as error:
        yield problem(
            "s3",
            f"the bucket {bucket} cannot be used: {error.detail}",
            "start the server; check LORAWRIGHT_S3_ENDPOINT_URL, the bucket, the key and what it "
            "may do (get, put, delete, list, multipart)",
        )


def _round_trip(store: ObjectStore) -> Iterator[Finding]:
    key, content = f"{PROBE_PREFIX}{uuid4().hex}", b"from lorawright doctor"
    try:
        store.put_bytes(key, content, "text/plain")
        if store.get_bytes(key) != content or store.size(key) != len(content):
            yield problem("s3", f"{key} was not read as it was stored", "look at the S3 server")
        if key not in store.list_keys(key):
            yield problem("s3", f"{key} was stored and is not listed", "look at the S3 server")
        yield from _presigned(store, f"{key}-presigned", content)
    finally:
        store.delete([key, f"{key}-presigned"])


def _presigned(store: ObjectStore, key: str, content: bytes) -> Iterator[Finding]:
    """Send and fetch as a client does, by the addresses that it is given."""
    upload_id = store.begin_parts(key, "text/plain")
    try:
        with httpx.Client(timeout=PROBE_SECONDS) as client:
            address = store.presign_part(key, upload_id, 1)
            client.put(address, content=content).raise_for_status()
            store.complete_parts(key, upload_id, store.parts(key, upload_id))
            fetched = client.get(store.presign_get(key)).raise_for_status().content
    except httpx.HTTPError as error:
        store.abort_parts(key, upload_id)
        host = httpx.URL(store.presign_get(key)).netloc.decode()
        yield problem(
            "s3.presigned",
            f"addresses that clients are given ({host}) do not work from here: {_reason(error)}",
            "check LORAWRIGHT_S3_PUBLIC_ENDPOINT_URL; a proxy must pass Host and query as they are",
        )
        return
    if fetched == content:
        yield ok("s3.presigned", "presigned addresses take and give")
    else:
        yield problem("s3.presigned", f"{key} came back otherwise", "look at the S3 server")


def _skew(check: str, seconds: float) -> Finding:
    if abs(seconds) < SKEW_WARNING_SECONDS:
        return ok(f"{check}.clock", f"{seconds:+.1f} s from this machine's")
    text_ = f"its clock is {seconds:+.0f} s from this machine's"
    todo = "have both machines' clocks set by NTP"
    if abs(seconds) < SKEW_PROBLEM_SECONDS:
        return warning(f"{check}.clock", text_, todo)
    return problem(f"{check}.clock", f"{text_}; signatures will be refused", todo)


def _shown_url() -> str:
    return get_engine().url.render_as_string()


def _reason(error: Exception) -> str:
    """The first line; presigned addresses and passwords are not in it."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}"
    told = str(getattr(error, "orig", None) or error)
    return told.splitlines()[0] if told else type(error).__name__
