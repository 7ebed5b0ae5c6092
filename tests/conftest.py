"""The real servers for all tests, and an empty database for each."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app import settings
from app.accounts import keys
from app.accounts import service as accounts
from app.cli.embedded import EmbeddedServers
from app.cli.stack.servers import REDIS_URL
from app.database import transaction
from app.migrate import upgrade
from tests import servers as servers_for_tests
from tests.api import api
from tests.servers import BUCKET

# What pytest-xdist calls this process: gw0, gw1, …; None where it is the only one.
PROCESS = os.environ.get("PYTEST_XDIST_WORKER")
USUAL_BUCKET = "lorawright"

# What takes longest begins first, or one process would end long after the other.
LONG_FIRST = (
    "tests/docs/test_pages.py",
    "tests/e2e/",
    "tests/browser/",
    "tests/worker/ml/training/test_kill.py",
    "tests/worker/ml/training/",
    "tests/bench/",
)

# Trainings by the dozen, runs killed and begun again: for `make test-long`.
LONG = (
    "tests/bench/",
    "tests/docs/test_pages.py",
    "tests/e2e/test_generated_client.py",
    "tests/e2e/test_survival.py",
    "tests/operations/",
    "tests/worker/handlers/test_training_whole.py",
    "tests/worker/ml/training/data/test_prepare_memory.py",
    "tests/worker/ml/training/test_kill.py",
    "tests/worker/ml/training/test_parallel.py",
    "tests/worker/ml/training/test_ways_to_train.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest; a file's tests stay together, and so does what one goes on from."""
    if config.getoption("--only-with-servers"):
        without = [item for item in items if "servers" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in set(without)]

    for item in items:
        if item.nodeid.startswith(LONG):
            item.add_marker("long")

    def turn(item: pytest.Item) -> int:
        places = [n for n, path in enumerate(LONG_FIRST) if item.nodeid.startswith(path)]
        return min(places, default=len(LONG_FIRST))

    items.sort(key=turn)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a run over other servers leaves out."""
    parser.addoption(
        "--only-with-servers",
        action="store_true",
        help="run only tests that use Postgres, Redis or S3; the others are the same over any",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse servers that are not meant for tests, before anything touches them."""
    config.addinivalue_line(
        "markers",
        "own_servers: it stops a server, or needs what not all do, so it has embedded ones",
    )
    config.addinivalue_line("markers", "long: `make test` leaves it to `make test-long`")
    if PROCESS is not None:
        return  # The process that started this one has looked.
    processes = [f"gw{n}" for n in range(len(config.getoption("tx", None) or []))]
    try:
        for process in processes or [None]:
            told = servers_for_tests.named(os.environ, process)
            if REDIS_URL in told:
                servers_for_tests.require_empty_redis(told[REDIS_URL])
    except servers_for_tests.NotForTests as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """Postgres, Redis and S3, migrated; those that LORAWRIGHT_* variables name are used instead."""
    with (
        # Not pytest's own folder: only its owner may enter that, and Postgres refuses to be root.
        tempfile.TemporaryDirectory(prefix="lorawright-tests-") as folder,
        servers_for_tests.running(Path(folder), os.environ, PROCESS) as running,
        servers_for_tests.using(running),
    ):
        upgrade(settings.get_settings().database_url)
        yield running


@pytest.fixture(scope="session")
def embedded_servers(servers: EmbeddedServers) -> Iterator[EmbeddedServers]:
    """Servers that a test may stop: `servers`; embedded ones beside them, where those are others'.

    They are not in use by themselves: see `servers_for_tests.using`.
    """
    if None not in (servers.postgres, servers.redis, servers.s3):
        yield servers
        return
    with (
        tempfile.TemporaryDirectory(prefix="lorawright-tests-") as folder,
        # The usual bucket: the variables may name one on the others' server.
        EmbeddedServers(Path(folder), provided={BUCKET: USUAL_BUCKET}) as running,
    ):
        upgrade(running.settings().database_url)
        yield running


@pytest.fixture
def clean(request: pytest.FixtureRequest, servers: EmbeddedServers) -> Iterator[EmbeddedServers]:
    """Empty tables and an empty broker; of embedded servers for a test marked `own_servers`."""
    if request.node.get_closest_marker("own_servers") is None:
        servers_for_tests.empty()
        yield servers
        return
    embedded = request.getfixturevalue("embedded_servers")
    with servers_for_tests.using(embedded):
        servers_for_tests.empty()
        yield embedded


def _client_of_new_account(name: str) -> TestClient:
    with transaction() as session:
        account = accounts.create_account(session, name)
        _, secret = keys.create_key(session, account.id, "test")
    return TestClient(
        api(),
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
