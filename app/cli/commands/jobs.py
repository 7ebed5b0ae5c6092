"""`lorawright jobs`: the newest jobs and how they are doing."""

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.options import DataDir, Key, Url

COLUMNS = ("id", "kind", "status", "progress", "created", "note")


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

    with connect(url, key, data_dir) as client:
        wanted = {"status": status} if status is not None else {}
        rows = [_row(job) for job in islice(client.every("/jobs", **wanted), limit)]
    console = Console(highlight=False)
    if not rows:
        console.print("No jobs.")
    elif console.is_terminal:
        table = Table(*COLUMNS, box=None)
        for column in table.columns[:-1]:
            column.no_wrap = True
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        # One line a job, parted by tabs, for other programs.
        for row in rows:
            # rich would print spaces instead.
            typer.echo("\t".join(row))


def _row(job: dict[str, Any]) -> list[str]:
    return [
        job["id"],
        job["object"],
        job["status"],
        f"{job['progress']['fraction']:.0%}",
        job["created_at"][:19].replace("T", " "),
        _note(job),
    ]


def _note(job: dict[str, Any]) -> str:
    if job["error"] is not None:
        return str(job["error"]["message"])
    return str(job["progress"]["stage"] or "") if job["status"] == "running" else ""
