"""`lorawright generate`: a prompt and weighted LoRAs to pictures, over the public API."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.errors import CommandError
from app.cli.options import DataDir, Key, Url


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    lora: Annotated[
        list[str] | None,
        typer.Option(help="A LoRA's name or id, and its weight: NAME:0.7; repeat, up to five."),
    ] = None,
    negative: Annotated[str, typer.Option(help="What to keep out of the picture.")] = "",
    num_images: Annotated[int, typer.Option("--num-images", "-n", help="How many pictures.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Picture i uses seed + i.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Base model; without it, the server's default.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder to save the pictures in.")] = Path("."),
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """Generate pictures and save them."""
    from rich.console import Console

    from app.cli.progress import JobProgress
    from app.cli.steps import Caller
    from app.cli.target import connect

    request: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": negative,
        "num_images": num_images,
        "loras": [parse_lora(text) for text in lora or []],
    }
    chosen = {
        "seed": seed,
        "steps": steps,
        "guidance_scale": guidance,
        "width": width,
        "height": height,
        "base_model": base_model,
    }
    # What was not chosen is left out, so that the server's defaults hold.
    request |= {name: value for name, value in chosen.items() if value is not None}
    console = Console(highlight=False)
    output.mkdir(parents=True, exist_ok=True)
    with connect(url, key, data_dir) as client, JobProgress(console) as progress:
        job = client.post("/generations", request)
        generation = Caller(client, progress).wait("generate", f"/generations/{job['id']}")
        for image in generation["images"]:
            target = output / f"{generation['id']}-{image['index']}.{image['format']}"
            client.download(image["url"], target)
            progress.say(f"{target} (seed {image['seed']})")


def parse_lora(text: str) -> dict[str, Any]:
    """`NAME` or `NAME:WEIGHT` as a generation request has it; the weight is after the last colon.

    Raises:
        CommandError: the weight is not a number.
    """
    name, colon, weight = text.rpartition(":")
    if not colon:
        return {"lora": text}
    try:
        return {"lora": name, "weight": float(weight)}
    except ValueError:
        raise CommandError(f"--lora {text}: the weight {weight!r} is not a number") from None
