"""`lorawright lora convert|resize|merge|extract`: LoRAs made of LoRAs, over the public API."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.errors import CommandError
from app.cli.options import DataDir, Key, Url

Rank = Annotated[int | None, typer.Option(help="Highest rank of a module, 1 to 512.")]
Keep = Annotated[
    float | None,
    typer.Option(help="Share of each module's change to keep, above 0 and at most 1."),
]
Name = Annotated[str | None, typer.Option(help="What to call the new LoRA.")]
Precision = Annotated[
    str | None, typer.Option(help="float16, bfloat16 or float32; else as it came.")
]


def convert(
    lora: Annotated[str, typer.Argument(help="A LoRA's id, or a name that only one has.")],
    layout: Annotated[str, typer.Option("--format", help="kohya, diffusers or peft.")],
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """Make a LoRA's file in another layout; `lora download --format` then saves it."""
    request = {"operation": "convert", "lora": lora, "layout": layout}
    done = _run(request, url, key, data_dir)
    _say(f"{done['lora']} can be had as {layout}, with an error of {_error(done)}")


def resize(
    lora: Annotated[str, typer.Argument(help="A LoRA's id, or a name that only one has.")],
    rank: Rank = None,
    keep: Keep = None,
    name: Name = None,
    precision: Precision = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """Make a LoRA of lower rank from one, as near to it as that rank can be."""
    request = {"operation": "resize", "lora": lora, **_made(rank, keep, name, precision)}
    _say_made(_run(request, url, key, data_dir))


def merge(
    loras: Annotated[
        list[str],
        typer.Argument(help="LoRAs by id or name, each with its weight: NAME:0.7; up to five."),
    ],
    rank: Rank = None,
    keep: Keep = None,
    name: Name = None,
    precision: Precision = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """Make one LoRA of several; exactly, with the sum of their ranks, unless a rank is given."""
    request = {
        "operation": "merge",
        "loras": [parse_weighted(text) for text in loras],
        **_made(rank, keep, name, precision),
    }
    _say_made(_run(request, url, key, data_dir))


def extract(
    base_model: Annotated[str, typer.Argument(help="Base model that was fine-tuned.")],
    fine_tuned: Annotated[str, typer.Argument(help="Base model that came of it.")],
    rank: Rank = None,
    keep: Keep = None,
    targets: Annotated[
        str, typer.Option(help="Modules of the UNet: attention, full or conv.")
    ] = "full",
    text_encoders: Annotated[
        bool, typer.Option(help="What changed in the text encoders too.")
    ] = False,
    name: Name = None,
    precision: Precision = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """Make a LoRA of what a fine-tune has changed in a base model, both of the catalog."""
    request = {
        "operation": "extract",
        "base_model": base_model,
        "fine_tuned": fine_tuned,
        "targets": targets,
        "text_encoders": text_encoders,
        **_made(rank, keep, name, precision),
    }
    _say_made(_run(request, url, key, data_dir))


def parse_weighted(text: str) -> dict[str, Any]:
    """`NAME` or `NAME:WEIGHT` as a merge has it; the weight is after the last colon.

    Raises:
        CommandError: the weight is not a number.
    """
    name, colon, weight = text.rpartition(":")
    if not colon:
        return {"lora": text}
    try:
        return {"lora": name, "weight": float(weight)}
    except ValueError:
        raise CommandError(f"{text}: the weight {weight!r} is not a number") from None


def _made(
    rank: int | None, keep: float | None, name: str | None, precision: str | None
) -> dict[str, Any]:
    """What was chosen; the server fills in the rest."""
    told = {"rank": rank, "keep": keep, "name": name, "precision": precision}
    return {field: value for field, value in told.items() if value is not None}


def _run(
    request: dict[str, Any], url: str | None, key: str | None, data_dir: Path
) -> dict[str, Any]:
    """Ask for a tool and watch it to its end; the job, and under `made` the LoRA it made."""
    from rich.console import Console

    from app.cli.progress import JobProgress
    from app.cli.steps import Caller
    from app.cli.target import connect

    console = Console(highlight=False)
    with connect(url, key, data_dir) as client, JobProgress(console) as progress:
        job = client.post("/lora-tools", request)
        done = Caller(client, progress).wait(request["operation"], f"/lora-tools/{job['id']}")
        return done | {"made": client.get(f"/loras/{done['lora']}")}


def _say_made(done: dict[str, Any]) -> None:
    made, ranks = done["made"], done["report"]["ranks"]
    rank = f"rank {ranks['max']}"
    if ranks["min"] != ranks["max"]:
        rank = f"ranks {ranks['min']} to {ranks['max']}"
    _say(f"{made['id']}  {made['name']}: {rank}, with an error of {_error(done)}")
    for note in done["report"]["notes"]:
        _say(note)


def _error(done: dict[str, Any]) -> str:
    return f"{100 * done['report']['error']:.2g}%"


def _say(text: str) -> None:
    from rich.console import Console

    Console(highlight=False).print(text, markup=False, soft_wrap=True)
