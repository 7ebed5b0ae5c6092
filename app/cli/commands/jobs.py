"""`lorawright jobs`: the newest jobs and how they are doing."""

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.options import DataDir, Key, Url


def jobs(
    status: Annotated[
        str | None, typer.Option(help="queued, running, succeeded, failed or canceled.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """List jobs, newest first."""
    from rich.console import Console
    from rich.table import Table

    from app.cli.target import connect

    table = Table("id", "kind", "status", "progress", "created", "note", box=None)
    with connect(url, key, data_dir) as client:
        wanted = {"status": status} if status is not None else {}
        for job in islice(client.every("/jobs", **wanted), limit):
            table.add_row(
                job["id"],
                job["object"],
                job["status"],
                f"{job['progress']['fraction']:.0%}",
                job["created_at"][:19].replace("T", " "),
                _note(job),
            )
    console = Console(highlight=False)
    # Ids must stay whole where the output is piped into another program.
    console.print(table if table.row_count else "No jobs.", soft_wrap=not console.is_terminal)


def _note(job: dict[str, Any]) -> str:
    if job["error"] is not None:
        return str(job["error"]["message"])
    return str(job["progress"]["stage"] or "") if job["status"] == "running" else ""
