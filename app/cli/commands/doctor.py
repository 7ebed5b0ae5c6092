"""`lorawright doctor`: whether servers, workers, settings and stored objects are as they should."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import DataDir

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.doctor.findings import Finding

COLORS = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
    objects: Annotated[
        bool,
        typer.Option("--objects", help="Also compare rows with stored objects, by size."),
    ] = False,
    hashes: Annotated[
        bool,
        typer.Option("--hashes", help="Also read every object and compare its SHA-256."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of a table.")
    ] = False,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """Examine an installation, and say what to do about each thing that is wrong.

    Looks at the servers of LORAWRIGHT_* as any process of the service would; where
    LORAWRIGHT_DATABASE_URL is not set, at the embedded stack in --data-dir. Changes nothing, but
    stores and removes one small object. Ends with 1 when there is a problem.
    """
    _use_stack(data_dir)
    from app.doctor.examination import examine

    findings = list(examine(with_objects=objects, with_hashes=hashes))
    if as_json:
        _print_json(findings)
    else:
        _print_table(findings)
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)


def _use_stack(data_dir: Path) -> None:
    """Take the addresses of the folder's stack, where the environment names no database."""
    from app.cli.stack.servers import DATABASE_URL, EmbeddedServers
    from app.cli.stack.state import load_state
    from app.cli.stack.supervisor import default_models

    if DATABASE_URL in os.environ:
        return
    state = load_state(data_dir)
    if state is not None:
        servers = EmbeddedServers(data_dir, provided=os.environ)
        servers.state = state
        os.environ.update(default_models() | servers.environment())


def _print_json(findings: "Iterable[Finding]") -> None:
    import json

    told = [asdict(finding) for finding in findings]
    well = all(finding["level"] != "problem" for finding in told)
    print(json.dumps({"status": "ok" if well else "problem", "findings": told}, indent=2))


def _print_table(findings: "Iterable[Finding]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        for finding in findings:
            # For other programs: rich would print spaces instead of tabs.
            typer.echo("\t".join([finding.level, finding.check, finding.text, finding.todo or ""]))
        return
    table = Table("", "check", "finding", box=None)
    for finding in findings:
        told = Text(finding.text)
        if finding.todo is not None:
            told.append(f"\n→ {finding.todo}", style="dim")
        table.add_row(Text(finding.level, style=COLORS[finding.level]), finding.check, told)
    console.print(table)
