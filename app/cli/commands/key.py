"""`lorawright key`: API keys, made directly in the database by whoever may reach it."""

from typing import Annotated

import typer
from rich.console import Console

from app.cli.errors import CommandError

app = typer.Typer(help="API keys, made directly in the database.", no_args_is_help=True)


@app.callback()
def key() -> None:
    """API keys, made directly in the database."""


@app.command()
def create(
    account: Annotated[
        str | None,
        typer.Option(help="Account id (acct_…); without it, a new account is made."),
    ] = None,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "made by lorawright key",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="datasets, trainings, generations or admin; repeat for several."),
    ] = None,
) -> None:
    """Make an API key in the database of LORAWRIGHT_DATABASE_URL and print it once."""
    from app.accounts import service
    from app.database import transaction
    from app.errors import NotFound

    # All but `admin`, which has to be asked for.
    wanted = scope or [known for known in service.ALL_SCOPES if known != "admin"]
    scopes = tuple(known for known in service.ALL_SCOPES if known in wanted)
    unknown = sorted(set(wanted) - set(service.ALL_SCOPES))
    if unknown:
        raise CommandError(
            f"--scope {unknown[0]} is unknown; the scopes are {', '.join(service.ALL_SCOPES)}"
        )
    try:
        with transaction() as session:
            owner = account or service.create_account(session, name).id
            _, secret = service.create_key(session, owner, name, scopes)
    except NotFound as error:
        raise CommandError(error.detail) from error
    console = Console(highlight=False)
    console.print(f"account {owner}, scopes {', '.join(scopes)}", soft_wrap=True)
    console.print(secret, markup=False, soft_wrap=True)
