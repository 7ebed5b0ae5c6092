"""The servers of a measurement, and the processes that are started against them."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from app import broker, database, settings, storage
from app.accounts import keys
from app.accounts import service as accounts
from app.cli.embedded import EmbeddedServers
from app.cli.stack.child import Child, ChildSpec
from app.cli.stack.ports import free_port
from app.cli.stack.processes import process_environment
from app.database import get_engine, transaction
from app.logs import configure_logs
from app.migrate import upgrade


@contextmanager
def servers() -> Iterator[EmbeddedServers]:
    """Postgres, Redis and S3 in a folder of their own, migrated; this process uses them too."""
    with (
        tempfile.TemporaryDirectory(prefix="lorawright-bench-") as folder,
        EmbeddedServers(Path(folder), provided=os.environ) as running,
    ):
        os.environ |= running.environment() | {
            "LORAWRIGHT_DEFAULT_BASE_MODEL": "emoji-64",
            "LORAWRIGHT_LOG_LEVEL": "warning",
            # What is measured is the work, not a limit on it.
            "LORAWRIGHT_MAX_RUNNING_PER_ACCOUNT": "100000",
            "LORAWRIGHT_REQUESTS_PER_MINUTE": "0",
            "LORAWRIGHT_MAX_QUEUED_PER_ACCOUNT": "1000000",
        }
        for cached in (
            settings.get_settings,
            broker.get_redis,
            storage.get_store,
            get_engine,
            database._session_factory,
        ):
            cached.cache_clear()
        configure_logs(settings.get_settings().log_level)
        upgrade(settings.get_settings().database_url)
        (running.data_dir / "logs").mkdir(exist_ok=True)
        yield running
        get_engine().dispose()


@contextmanager
def web_server(running: EmbeddedServers, factory: str) -> Iterator[str]:
    """One uvicorn process of an application; its address."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            return httpx.get(f"{address}/livez", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    command = ["uvicorn", factory, "--factory", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "1"]
    with _child(running, factory.split(".")[-1], command, is_ready):
        yield address


@contextmanager
def worker(running: EmbeddedServers, application: str, queues: Sequence[str]) -> Iterator[None]:
    """One Celery worker process, as the service starts its own."""
    host = f"bench-{application.replace('.', '-').replace(':', '-')}@localhost"
    from celery import Celery

    def is_ready() -> bool:
        with Celery("probe", broker=os.environ["LORAWRIGHT_REDIS_URL"]) as probe:
            return bool(probe.control.ping(destination=[host], timeout=0.5))

    command = ["celery", "-A", application, "worker", "-Q", ",".join(queues)]
    command += ["--pool", "prefork", "--concurrency", "1", "--hostname", host]
    command += ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
    with _child(running, host, command, is_ready):
        yield


@contextmanager
def _child(
    running: EmbeddedServers, name: str, command: list[str], ready: object
) -> Iterator[Child]:
    child = Child(
        ChildSpec(
            name=name,
            command=[sys.executable, "-m", *command],
            environment=process_environment(running.environment()),
            ready=ready,  # type: ignore[arg-type]
            ready_seconds=120,
        ),
        running.data_dir / "logs" / f"{name}.log",
    )
    child.start()
    try:
        child.wait_ready()
        yield child
    finally:
        child.stop()


def customer() -> tuple[str, str]:
    """A new account and its key."""
    with transaction() as session:
        account = accounts.create_account(session, "bench")
        _, secret = keys.create_key(session, account.id, "bench")
    return account.id, secret
