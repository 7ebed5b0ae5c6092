"""The real servers for all tests, and an empty database for each."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from app import broker, database, settings, storage
from app.accounts import keys
from app.accounts import service as accounts
from app.cli.embedded import EmbeddedServers
from app.database import get_engine, transaction
from app.jobs import pace
from app.migrate import upgrade
from app.tables import metadata

# What takes longest begins first, or one process would end long after the other.
LONG_FIRST = (
    "tests/e2e/",
    "tests/browser/",
    "tests/worker/ml/training/test_kill.py",
    "tests/worker/ml/training/",
    "tests/bench/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest; a file's tests stay together, and so does what one goes on from."""

    def turn(item: pytest.Item) -> int:
        places = [n for n, path in enumerate(LONG_FIRST) if item.nodeid.startswith(path)]
        return min(places, default=len(LONG_FIRST))

    items.sort(key=turn)


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """Postgres, Redis and S3, migrated; those that LORAWRIGHT_* variables name are used instead."""
    with (
        # Not pytest's own folder: only its owner may enter that, and Postgres refuses to be root.
        tempfile.TemporaryDirectory(prefix="lorawright-tests-") as folder,
        EmbeddedServers(Path(folder), provided=os.environ) as running,
    ):
        os.environ |= running.environment() | {
            "LORAWRIGHT_DEFAULT_BASE_MODEL": "emoji-64",
            "LORAWRIGHT_DEFAULT_CAPTIONER": "emoji-blip",
            "LORAWRIGHT_LOG_LEVEL": "warning",
        }
        for cached in (settings.get_settings, broker.get_redis, storage.get_store, get_engine):
            cached.cache_clear()
        database._session_factory.cache_clear()
        upgrade(settings.get_settings().database_url)
        yield running
        get_engine().dispose()
        broker.get_redis().close()


@pytest.fixture
def clean(servers: EmbeddedServers) -> EmbeddedServers:
    """Empty tables, an empty broker, and nothing remembered of them."""
    with get_engine().begin() as connection:
        names = ", ".join(table.name for table in metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {names} CASCADE"))
    broker.get_redis().flushdb()
    pace.kept.forget()
    return servers


def _client_of_new_account(name: str) -> TestClient:
    from app.main import create_app

    with transaction() as session:
        account = accounts.create_account(session, name)
        _, secret = keys.create_key(session, account.id, "test")
    return TestClient(
        create_app(),
        headers={"Authorization": f"Bearer {secret}"},
        raise_server_exceptions=False,
        follow_redirects=False,
    )


@pytest.fixture
def client(clean: EmbeddedServers) -> Iterator[TestClient]:  # noqa: ARG001 (order)
    """The API as a customer with a key of every scope."""
    with _client_of_new_account("customer") as opened:
        yield opened


@pytest.fixture
def other_client(clean: EmbeddedServers) -> Iterator[TestClient]:  # noqa: ARG001 (order)
    """Another customer."""
    with _client_of_new_account("other") as opened:
        yield opened
