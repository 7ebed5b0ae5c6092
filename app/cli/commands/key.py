"""`lorawright key`: API keys, made and changed directly in the database by whoever may reach it."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from app.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

    from app.accounts.keys import Scope
    from app.accounts.models import ApiKey

app = typer.Typer(help="API keys, made and changed directly in the database.", no_args_is_help=True)
KeyId = Annotated[str, typer.Argument(help="Key id (key_…).")]


@app.callback()
def key() -> None:
    """API keys, made and changed directly in the database."""
    from app.audit.service import Actor, act_as

    act_as(Actor("cli"))


@app.command()
def create(
    account: Annotated[
        str | None,
        typer.Option(help="Account id (acct_…); without it, a new account is made."),
    ] = None,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "made by lorawright key",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="datasets, trainings, generations or admin; repeat for several. A new account "
            "with a key of the scope admin is an operator's."
        ),
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(
            help="When it stops working, UTC; without it, when it is revoked.",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"],
        ),
    ] = None,
) -> None:
    """Make an API key in the database of LORAWRIGHT_DATABASE_URL and print it once."""
    from app.accounts import keys, service
    from app.errors import LorawrightError

    scopes = _scopes(scope)
    ends = None if expires is None else expires.replace(tzinfo=UTC)
    try:
        with _database() as session:
            role: service.Role = "admin" if "admin" in scopes else "customer"
            owner = account or service.create_account(session, name, role).id
            _, secret = keys.create_key(session, owner, name, scopes, ends)
    except LorawrightError as error:
        raise CommandError(error.detail) from error
    console = Console(highlight=False)
    console.print(f"account {owner}, scopes {', '.join(scopes)}", soft_wrap=True)
    console.print(secret, markup=False, soft_wrap=True)


@app.command("list")
def list_keys(
    account: Annotated[
        str | None, typer.Option(help="Account id (acct_…); without it, all of them.")
    ] = None,
) -> None:
    """List API keys, one a line, newest first; secrets are not known to anybody."""

    with _database() as session:
        for found in _find(session, account):
            scopes = ",".join(found.scopes)
            used = "never" if found.last_used_at is None else f"{found.last_used_at:%Y-%m-%d %H:%M}"
            shown = [found.id, found.account_id, found.name, found.prefix, scopes, _state(found)]
            # For other programs too: rich would print spaces instead of tabs.
            typer.echo("\t".join([*shown, used]))


@app.command()
def revoke(key_id: KeyId) -> None:
    """Let a key work no more, from the next request on."""
    from app.accounts import keys

    with _database() as session:
        keys.revoke(session, _one(session, key_id))
    typer.echo(f"{key_id} is revoked")


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[
        float, typer.Option(help="Hours for which the old secret works too.", min=0, max=168)
    ] = 0,
) -> None:
    """Give a key a new secret and print it once."""
    from app.accounts import keys
    from app.errors import Conflict

    try:
        with _database() as session:
            secret = keys.rotate(session, _one(session, key_id), timedelta(hours=overlap))
    except Conflict as error:
        raise CommandError(error.detail) from error
    Console(highlight=False).print(secret, markup=False, soft_wrap=True)


@contextmanager
def _database() -> "Iterator[Session]":
    """One transaction in the database of the settings.

    Raises:
        CommandError: it cannot be reached.
    """
    from sqlalchemy.exc import OperationalError

    from app.database import get_engine, transaction

    try:
        with transaction() as session:
            yield session
    except OperationalError as error:
        url = get_engine().url.render_as_string()
        raise CommandError(
            f"The database {url} (LORAWRIGHT_DATABASE_URL) cannot be used: {error.orig}"
        ) from error


def _scopes(wanted: list[str] | None) -> "tuple[Scope, ...]":
    from app.accounts import keys

    if not wanted:
        return keys.CUSTOMER_SCOPES
    if unknown := sorted(set(wanted) - set(keys.ALL_SCOPES)):
        raise CommandError(
            f"--scope {unknown[0]} is unknown; the scopes are {', '.join(keys.ALL_SCOPES)}"
        )
    return tuple(scope for scope in keys.ALL_SCOPES if scope in wanted)


def _find(session: "Session", account: str | None) -> "Iterator[ApiKey]":
    from sqlalchemy import select

    from app.accounts.models import ApiKey

    query = select(ApiKey).order_by(ApiKey.id.desc())
    yield from session.scalars(query if account is None else query.filter_by(account_id=account))


def _one(session: "Session", key_id: str) -> "ApiKey":
    from app.accounts.models import ApiKey

    found = session.get(ApiKey, key_id)
    if found is None:
        raise CommandError(f"No API key {key_id}; lorawright key list shows them")
    return found


def _state(found: "ApiKey") -> str:
    from app.accounts import keys

    if found.revoked_at is not None:
        return "revoked"
    return "works" if keys.works(found) else "expired"
