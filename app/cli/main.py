"""The `lorawright` command: one file a subcommand, under `app/cli/commands/`.

Nothing heavy is imported here. A command imports what it needs when it runs, so that help appears
at once.
"""

import sys

import typer
from rich.console import Console
from rich.text import Text

from app.cli.commands import (
    base_model,
    bucket,
    compare,
    demo,
    doctor,
    generate,
    jobs,
    key,
    lora,
    migrate,
    train,
    up,
)
from app.cli.errors import CommandError

app = typer.Typer(
    name="lorawright",
    help="From a folder of pictures to an SDXL LoRA, and from LoRAs to pictures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(up.up)
app.command()(demo.demo)
app.command()(train.train)
app.command()(generate.generate)
app.command()(compare.compare)
app.command()(jobs.jobs)
app.command()(migrate.migrate)
app.command()(doctor.doctor)
app.add_typer(lora.app, name="lora")
app.add_typer(key.app, name="key")
app.add_typer(bucket.app, name="bucket")
app.add_typer(base_model.app, name="base-model")


def main() -> None:
    """Run the command line; a failure a person can mend is one message and status 1."""
    try:
        app()
    except CommandError as error:
        message = Text.assemble(("error: ", "bold red"), str(error))
        Console(stderr=True).print(message, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
