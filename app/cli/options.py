"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path, typer.Option(help="Folder of the embedded stack: its data, logs and stack.json.")
]
Url = Annotated[
    str | None,
    typer.Option(
        envvar="LORAWRIGHT_URL",
        help="Server to talk to; without it, the stack that runs on --data-dir.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="LORAWRIGHT_API_KEY",
        help="API key; without it, the first admin key of the stack on --data-dir.",
    ),
]
