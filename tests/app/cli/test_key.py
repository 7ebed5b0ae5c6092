"""`lorawright migrate` and `lorawright key create` talk to the database of the settings."""

import subprocess
import sys

from app.accounts.service import authenticate
from app.cli.embedded import EmbeddedServers
from app.database import transaction


def _lorawright(servers: EmbeddedServers, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", *arguments],
        env=servers.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_created_key_opens_a_new_account_without_the_admin_scope(clean: EmbeddedServers) -> None:
    made = _lorawright(clean, "key", "create", "--name", "laptop")
    assert made.returncode == 0, made.stderr
    said, secret = made.stdout.splitlines()
    with transaction() as session:
        key = authenticate(session, secret)
        assert key.name == "laptop"
        assert key.account_id in said
        assert sorted(key.scopes) == ["datasets", "generations", "trainings"]


def test_scopes_and_accounts_that_do_not_exist_are_refused(clean: EmbeddedServers) -> None:
    scope = _lorawright(clean, "key", "create", "--scope", "everything")
    assert (scope.returncode, scope.stdout) == (1, "")
    assert "--scope everything is unknown; the scopes are datasets" in scope.stderr
    account = _lorawright(clean, "key", "create", "--account", "acct_none")
    assert (account.returncode, account.stdout) == (1, "")
    assert "No account acct_none" in account.stderr


def test_migrating_twice_is_harmless(clean: EmbeddedServers) -> None:
    for _ in range(2):
        finished = _lorawright(clean, "migrate")
        assert finished.returncode == 0, finished.stderr
        assert "The database has the newest schema." in finished.stdout
