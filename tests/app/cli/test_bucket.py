"""`lorawright bucket create` makes the bucket of the settings, once."""

import subprocess
import sys

import pytest

from app.cli.embedded import EmbeddedServers
from app.settings import Settings
from app.storage import make_store


def _create(servers: EmbeddedServers, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", "bucket", "create"],
        env=servers.environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_bucket_is_created_and_one_that_is_there_is_left_alone(
    clean: EmbeddedServers,
) -> None:
    for _ in range(2):
        made = _create(clean, LORAWRIGHT_S3_BUCKET="made-by-hand")
        assert (made.returncode, made.stdout) == (0, "There is a bucket made-by-hand.\n")
    told = {**clean.settings().model_dump(), "s3_bucket": "made-by-hand"}
    make_store(Settings.model_validate(told)).put_bytes("key", b"held", "text/plain")


# moto takes any key.
@pytest.mark.own_servers
def test_storage_that_refuses_is_told_in_words(clean: EmbeddedServers) -> None:
    refused = _create(clean, LORAWRIGHT_S3_SECRET_ACCESS_KEY="wrong")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "LORAWRIGHT_S3_BUCKET) cannot be used" in refused.stderr
    assert "Traceback" not in refused.stderr
