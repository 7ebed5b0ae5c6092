"""`lorawright bucket`: the place in storage that holds every object."""

import typer

from app.cli.errors import CommandError

app = typer.Typer(help="The bucket that holds every object.", no_args_is_help=True)


@app.callback()
def bucket() -> None:
    """The bucket that holds every object."""


@app.command()
def create() -> None:
    """Create the bucket of LORAWRIGHT_S3_BUCKET where it is missing."""
    from app.errors import LorawrightError
    from app.settings import get_settings
    from app.storage import get_store

    name = get_settings().s3_bucket
    try:
        get_store().ensure_bucket()
    except LorawrightError as error:
        raise CommandError(
            f"The bucket {name} (LORAWRIGHT_S3_BUCKET) cannot be used: {error.detail}"
        ) from error
    typer.echo(f"There is a bucket {name}.")
