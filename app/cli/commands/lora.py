"""`lorawright lora`: LoRA files, looked into on this machine or kept on a server."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.commands import lora_tools
from app.cli.errors import CommandError
from app.cli.lora_report import mebibytes, table_of
from app.cli.options import DataDir, Key, Url

app = typer.Typer(
    help="LoRA files: look into them, upload, list, download, make new ones.", no_args_is_help=True
)
COLUMNS = ("id", "name", "base model", "rank", "layout", "size", "source", "created")


@app.callback()
def lora() -> None:
    """LoRA files: look into them, upload, list, download, make new ones."""


@app.command()
def upload(
    files: Annotated[list[Path], typer.Argument(help="Files ending in .safetensors.")],
    name: Annotated[
        str | None, typer.Option(help="What to call it, of one file; else the file's own name.")
    ] = None,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    trigger: Annotated[
        str | None, typer.Option(help="Trigger word; else the one that the file tells, if any.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Base model; else the first that the file fits.")
    ] = None,
    weight: Annotated[float, typer.Option(help="Weight when a generation names none.")] = 1.0,
    strict: Annotated[
        bool, typer.Option(help="Refuse a file with keys that have no place in the base model.")
    ] = True,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """Upload LoRA files; the server checks each before it keeps it."""
    from rich.console import Console

    from app.cli.target import connect

    if name is not None and len(files) > 1:
        raise CommandError(
            f"--name {name} is one name for {len(files)} files; upload one at a time"
        )
    told = {
        "name": name,
        "description": description,
        "trigger_word": trigger,
        "base_model": base_model,
        "default_weight": str(weight),
        "strict": str(strict).lower(),
    }
    fields = {field: value for field, value in told.items() if value}
    console = Console(highlight=False)
    with connect(url, key, data_dir) as client:
        for file in files:
            kept = client.upload_one("/loras", _existing(file), fields)
            console.print(
                f"{kept['id']}  {kept['name']}: rank {kept['rank']} for {kept['base_model']}",
                markup=False,
                soft_wrap=True,
            )


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A file ending in .safetensors.")],
    strict: Annotated[
        bool, typer.Option(help="Count keys that have no place in the base model as a problem.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="The whole report and the file's metadata, as JSON.")
    ] = False,
) -> None:
    """Check a LoRA file on this machine and tell what it is; ends with 1 if it cannot be used."""
    import json

    from rich.console import Console

    from app.lora_format.check import describe
    from app.lora_format.errors import LoraFileError

    try:
        report = describe(_existing(file), strict=strict)
    except LoraFileError as error:
        raise CommandError(f"{file}: {error} ({error.code})") from error
    told = report.as_json()
    console = Console(highlight=False)
    if as_json:
        text = json.dumps(told | {"file_metadata": report.metadata}, indent=2, ensure_ascii=False)
        console.print(text, markup=False, soft_wrap=True)
    else:
        console.print(table_of(told))
    if report.problems:
        raise typer.Exit(1)


@app.command(name="list")
def list_loras(
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """List the account's LoRAs, newest first."""
    from itertools import islice

    from rich.console import Console
    from rich.table import Table

    from app.cli.target import connect

    with connect(url, key, data_dir) as client:
        rows = [_row(each) for each in islice(client.every("/loras"), limit)]
    console = Console(highlight=False)
    if not rows:
        console.print("No LoRAs.")
    elif console.is_terminal:
        table = Table(*COLUMNS, box=None)
        table.columns[0].no_wrap = True
        for row in rows:
            table.add_row(*row)
        console.print(table)
    else:
        # One line a LoRA, parted by tabs, for other programs.
        for row in rows:
            # rich would print spaces instead.
            typer.echo("\t".join(row))


@app.command()
def download(
    lora: Annotated[str, typer.Argument(help="A LoRA's id, or a name that only one has.")],
    layout: Annotated[
        str,
        typer.Option("--format", help="kohya, diffusers, peft, or original: as it is stored."),
    ] = "kohya",
    output: Annotated[Path, typer.Option(help="Folder to save the file in.")] = Path("."),
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """Save a LoRA's file."""
    from rich.console import Console

    from app.cli.target import connect

    with connect(url, key, data_dir) as client:
        found = _find(client.every("/loras"), lora)
        output.mkdir(parents=True, exist_ok=True)
        safe = "".join(c if c.isalnum() or c in "-_. " else "_" for c in found["name"])
        # PEFT's layout is two files; only an upload may lack the second.
        ending = "zip" if layout == "peft" != found["layout"] else "safetensors"
        if layout != "kohya":
            # Beside the file that other programs load, not over it.
            ending = f"{layout}.{ending}"
        target = output / f"{safe.strip('. ') or found['id']}.{ending}"
        client.download(f"/v1/loras/{found['id']}/download?format={layout}", target)
    Console(highlight=False).print(str(target), markup=False, soft_wrap=True)


app.command()(lora_tools.convert)
app.command()(lora_tools.resize)
app.command()(lora_tools.merge)
app.command()(lora_tools.extract)


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise CommandError(f"{file} is no file")
    return file


def _find(loras: Any, reference: str) -> dict[str, Any]:
    found = [each for each in loras if reference in (each["id"], each["name"])]
    if not found:
        raise CommandError(f"No LoRA has the id or name {reference}")
    if len(found) > 1:
        ids = ", ".join(each["id"] for each in found)
        raise CommandError(f"Several LoRAs are named {reference}; use an id: {ids}")
    return dict(found[0])


def _row(lora: dict[str, Any]) -> list[str]:
    return [
        lora["id"],
        lora["name"],
        lora["base_model"],
        str(lora["rank"]),
        lora["layout"],
        mebibytes(lora["bytes"]),
        lora["source"],
        lora["created_at"][:19].replace("T", " "),
    ]
