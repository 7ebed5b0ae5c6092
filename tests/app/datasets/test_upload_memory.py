"""A large upload hardly raises the memory of the API: the real process, over real servers."""

from pathlib import Path

from app.accounts import keys
from app.accounts import service as accounts
from app.cli.embedded import EmbeddedServers
from app.database import transaction
from bench.upload_memory import measure


def test_an_archive_of_100_megabytes_raises_memory_by_less_than_64(
    clean: EmbeddedServers, tmp_path: Path
) -> None:
    with transaction() as session:
        account = accounts.create_account(session, "uploader")
        _, key = keys.create_key(session, account.id, "test")
    variables = clean.environment() | {"LORAWRIGHT_LOG_LEVEL": "warning"}
    rise = measure(variables, key, tmp_path, 100)
    assert rise.sent_bytes > 90_000_000
    assert rise.bytes < 64 * 1024 * 1024, f"{rise.bytes} of {rise.before_bytes}"
