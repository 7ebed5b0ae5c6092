"""`lorawright migrate` and `lorawright key create` talk to the database of the settings."""

import subprocess
import sys

import pytest
from sqlalchemy import select

from app.accounts.keys import authenticate
from app.accounts.service import create_account
from app.audit.models import AuditEntry
from app.cli.embedded import EmbeddedServers
from app.database import transaction
from app.errors import Unauthenticated


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


def test_a_database_that_is_away_is_told_in_words(clean: EmbeddedServers) -> None:
    away = {"LORAWRIGHT_DATABASE_URL": "postgresql+psycopg://me:secret@127.0.0.1:1/lorawright"}
    told = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "key", "list"],
        env=clean.environment() | away,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stdout) == (1, "")
    assert "LORAWRIGHT_DATABASE_URL) cannot be used" in told.stderr
    assert "Traceback" not in told.stderr
    assert "secret" not in told.stderr


def test_migrating_twice_is_harmless(clean: EmbeddedServers) -> None:
    for _ in range(2):
        finished = _lorawright(clean, "migrate")
        assert finished.returncode == 0, finished.stderr
        assert "The database has the newest schema." in finished.stdout


def test_keys_are_listed_rotated_and_revoked(clean: EmbeddedServers) -> None:
    made = _lorawright(clean, "key", "create", "--name", "laptop", "--expires", "2090-01-01")
    first = made.stdout.splitlines()[1]
    [line] = _lorawright(clean, "key", "list").stdout.splitlines()
    key_id, _, name, prefix, scopes, state, used = line.split("\t")
    assert (name, state, used) == ("laptop", "works", "never")
    assert first.startswith(prefix)
    assert scopes == "datasets,trainings,generations"
    second = _lorawright(clean, "key", "rotate", key_id).stdout.strip()
    with transaction() as session:
        assert authenticate(session, second).id == key_id
        with pytest.raises(Unauthenticated):
            authenticate(session, first)
    assert _lorawright(clean, "key", "revoke", key_id).stdout == f"{key_id} is revoked\n"
    with transaction() as session, pytest.raises(Unauthenticated):
        authenticate(session, second)
    again = _lorawright(clean, "key", "rotate", key_id)
    assert (again.returncode, again.stdout) == (1, "")
    assert "no longer works" in again.stderr
    none = _lorawright(clean, "key", "revoke", "key_none")
    assert "No API key key_none" in none.stderr
    with transaction() as session:
        actors = session.scalars(select(AuditEntry.actor)).all()
    assert set(actors) == {"cli"}


def test_a_new_account_with_an_admin_key_is_an_operators(clean: EmbeddedServers) -> None:
    made = _lorawright(clean, "key", "create", "--scope", "admin")
    with transaction() as session:
        assert authenticate(session, made.stdout.splitlines()[1]).account.role == "admin"
        customer = create_account(session, "customer").id
    refused = _lorawright(clean, "key", "create", "--account", customer, "--scope", "admin")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "role customer" in refused.stderr
