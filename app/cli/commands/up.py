"""`lorawright up`: the whole stack on one machine, until Ctrl-C."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from app.cli.options import DataDir


def up(
    data_dir: DataDir = Path(".lorawright"),
    port: Annotated[int, typer.Option(help="Port of the API.", min=1, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Address the API listens on.")] = "127.0.0.1",
    postgres_port: Annotated[
        int | None, typer.Option(help="Port of the embedded Postgres, kept from now on.")
    ] = None,
    redis_port: Annotated[
        int | None, typer.Option(help="Port of the embedded Redis, kept from now on.")
    ] = None,
    s3_port: Annotated[
        int | None, typer.Option(help="Port of the embedded S3 server, kept from now on.")
    ] = None,
) -> None:
    """Start Postgres, Redis, S3, the API, a worker and beat; stop them all with Ctrl-C.

    Data stays under --data-dir. LORAWRIGHT_DATABASE_URL, LORAWRIGHT_REDIS_URL and
    LORAWRIGHT_S3_ENDPOINT_URL, where they are set, name servers to use instead of embedded ones.
    """
    from app.cli.embedded import EmbeddedStack, StackOptions

    console = Console(highlight=False)
    stack = EmbeddedStack(
        data_dir,
        StackOptions(host, port, postgres_port, redis_port, s3_port),
        environ=os.environ,
        report=lambda text: console.print(text, markup=False, soft_wrap=True),
    )
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            stack.hurry()
            return
        stop.set()
        console.print("Stopping; once more to hurry.")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    console.print(f"Starting the stack in {stack.data_dir}", soft_wrap=True)
    stack.run(stop)
    console.print("Stopped. The data is kept; start again with `lorawright up`.")
