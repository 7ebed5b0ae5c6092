"""`lorawright compare`: a grid of pictures that differ in a few things, and one sheet of it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import lora_uses
from app.cli.errors import CommandError
from app.cli.options import DataDir, Key, Url

# Axes whose values are numbers, and of what kind.
NUMBERS = {"weight": float, "guidance_scale": float, "steps": int, "seed": int}
# Axes whose values may hold commas.
TEXTS = ("prompt", "negative_prompt")


def compare(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    axis: Annotated[
        list[str],
        typer.Option(
            help="What differs, with its values: weight=0,0.5,1 or weight:NAME=0,1, seed=1..4, "
            "lora=NAME,none, checkpoint=ckpt_…,none, guidance_scale=, steps=, scheduler=, or "
            "prompt=ONE|ANOTHER. The first runs down the sheet, the second across."
        ),
    ],
    lora: Annotated[list[str] | None, typer.Option(help=lora_uses.HELP)] = None,
    negative: Annotated[str, typer.Option(help="What to keep out of the pictures.")] = "",
    seed: Annotated[int | None, typer.Option(help="Of all pictures.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Base model; without it, the server's default.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option(help="Save each picture too, not the sheet alone.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder to save in.")] = Path("."),
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """Draw every combination of a few values and save one labelled sheet."""
    from rich.console import Console

    from app.cli.progress import JobProgress
    from app.cli.steps import Caller
    from app.cli.target import connect

    request: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": negative,
        "loras": [lora_uses.parse_lora(text) for text in lora or []],
        "axes": parse_axes(axis),
    }
    chosen = {
        "seed": seed,
        "steps": steps,
        "guidance_scale": guidance,
        "width": width,
        "height": height,
        "base_model": base_model,
    }
    request |= {name: value for name, value in chosen.items() if value is not None}
    output.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    with connect(url, key, data_dir) as client, JobProgress(console) as progress:
        job = client.post("/comparisons", request)
        done = Caller(client, progress).wait("compare", f"/comparisons/{job['id']}")
        sheet = output / f"{done['id']}.png"
        client.download(done["sheet_url"], sheet)
        progress.say(str(sheet))
        for image in done["images"] if pictures else []:
            target = output / f"{done['id']}-{image['index']}.{image['format']}"
            client.download(image["url"], target)
            progress.say(f"{target} ({', '.join(image['labels'])})")


def parse_axes(texts: list[str]) -> list[dict[str, Any]]:
    """`NAME=VALUES` or `weight:LORA=VALUES` as a comparison has them.

    Raises:
        CommandError: one has no values, or a value is not what its axis takes.
    """
    axes = []
    for text in texts:
        name, equals, told = text.partition("=")
        if not equals or not told:
            raise CommandError(f"--axis {text}: write NAME=VALUES, such as weight=0,0.5,1")
        name, _, lora = name.partition(":")
        axis: dict[str, Any] = {"name": name, "values": _values(text, name, told)}
        if lora:
            axis["lora"] = lora
        axes.append(axis)
    return axes


def _values(text: str, name: str, told: str) -> list[Any]:
    if name in TEXTS:
        return told.split("|")
    if name not in NUMBERS:
        return [None if value == "none" else value for value in told.split(",")]
    values: list[Any] = []
    for value in told.split(","):
        first, dots, last = value.partition("..")
        try:
            if dots and NUMBERS[name] is int:
                span = range(int(first), int(last) + 1)
                if not span:
                    raise ValueError(value)
                values.extend(span)
            else:
                number = float(value)
                if NUMBERS[name] is int and number != int(number):
                    raise ValueError(value)
                values.append(int(number) if number == int(number) else number)
        except ValueError as error:
            raise CommandError(f"--axis {text}: {value!r} is no value of {name}") from error
    return values
