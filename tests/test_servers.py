"""Tests empty what they use, so they refuse servers that may hold what somebody needs."""

import subprocess
import sys

import pytest
import redis

from app.cli.embedded import EmbeddedServers
from tests.servers import NotForTests, named, require_empty_redis

OTHERS = {
    "LORAWRIGHT_DATABASE_URL": "postgresql+psycopg://ink:secret@db:5432/ink_test",
    "LORAWRIGHT_REDIS_URL": "redis://:secret@cache:6379/3",
    "LORAWRIGHT_S3_ENDPOINT_URL": "https://s3.example",
    "LORAWRIGHT_S3_BUCKET": "ink-test",
    "HOME": "/root",
}


def test_a_process_alone_uses_the_names_that_it_is_given() -> None:
    assert named(OTHERS) == {name: OTHERS[name] for name in OTHERS if name != "HOME"}


def test_two_processes_never_share_a_database_or_a_bucket() -> None:
    first, second = named(OTHERS, "gw0"), named(OTHERS, "gw1")
    assert first["LORAWRIGHT_DATABASE_URL"].endswith("@db:5432/ink_gw0_test")
    assert second["LORAWRIGHT_DATABASE_URL"].endswith("@db:5432/ink_gw1_test")
    assert first["LORAWRIGHT_REDIS_URL"] == "redis://:secret@cache:6379/3"
    assert second["LORAWRIGHT_REDIS_URL"] == "redis://:secret@cache:6379/4"
    assert first["LORAWRIGHT_S3_BUCKET"] == "ink-gw0-test"
    assert second["LORAWRIGHT_S3_BUCKET"] == "ink-gw1-test"


def test_a_bucket_that_is_not_named_is_one_for_tests() -> None:
    unnamed = {name: value for name, value in OTHERS.items() if name != "LORAWRIGHT_S3_BUCKET"}
    assert named(unnamed)["LORAWRIGHT_S3_BUCKET"] == "lorawright-test"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "LORAWRIGHT_DATABASE_URL",
            "postgresql+psycopg://u@db/lorawright",
            "'lorawright'.*'_test'",
        ),
        ("LORAWRIGHT_S3_BUCKET", "lorawright", "'lorawright'.*'-test'"),
    ],
)
def test_a_name_that_does_not_say_that_it_is_for_tests_is_refused(
    name: str, value: str, says: str
) -> None:
    with pytest.raises(NotForTests, match=says):
        named(OTHERS | {name: value}, "gw0")


def test_a_redis_that_holds_something_is_refused(embedded_servers: EmbeddedServers) -> None:
    address = embedded_servers.settings().redis_url.removesuffix("/0") + "/9"
    with redis.Redis.from_url(address) as client:
        client.set("somebody's", "1")
        with pytest.raises(NotForTests, match=r"database 9 .* holds 1 keys"):
            require_empty_redis(address)
        client.flushdb()
    require_empty_redis(address)


def test_a_run_over_servers_that_are_not_for_tests_does_not_begin() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", __file__],
        env=OTHERS | {"LORAWRIGHT_DATABASE_URL": "postgresql+psycopg://u@db/lorawright"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "names the database 'lorawright'" in run.stderr
