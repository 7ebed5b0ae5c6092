"""`lorawright generate`: a prompt and weighted LoRAs to pictures, over the public API."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import lora_uses
from app.cli.errors import CommandError
from app.cli.options import DataDir, Key, Url


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    lora: Annotated[
        list[str] | None,
        typer.Option(help=lora_uses.HELP),
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
    scheduler: Annotated[
        str | None, typer.Option(help="Sampler, such as euler_a or dpmpp_2m_karras.")
    ] = None,
    guidance_rescale: Annotated[
        float | None, typer.Option(help="0 to 1: tone down what strong guidance overexposes.")
    ] = None,
    init_image: Annotated[Path | None, typer.Option(help="A picture to start from.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="White is drawn anew, black kept; needs --init-image.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much of the picture to start from is changed, 0 to 1.")
    ] = None,
    hires: Annotated[
        float | None, typer.Option(help="Enlarge by so much and draw again in part, e.g. 1.5.")
    ] = None,
    image_format: Annotated[str | None, typer.Option("--format", help="png, webp or jpeg.")] = None,
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
        "loras": [lora_uses.parse_lora(text) for text in lora or []],
    }
    chosen = {
        "seed": seed,
        "steps": steps,
        "guidance_scale": guidance,
        "width": width,
        "height": height,
        "base_model": base_model,
        "scheduler": scheduler,
        "guidance_rescale": guidance_rescale,
        "strength": strength,
        "hires": None if hires is None else {"scale": hires},
        "format": image_format,
    }
    # What was not chosen is left out, so that the server's defaults hold.
    request |= {name: value for name, value in chosen.items() if value is not None}
    console = Console(highlight=False)
    output.mkdir(parents=True, exist_ok=True)
    with connect(url, key, data_dir) as client, JobProgress(console) as progress:
        for name, path in (("init_image", init_image), ("mask_image", mask)):
            if path is not None:
                if not path.is_file():
                    raise CommandError(f"{path} is no file")
                request[name] = client.upload_one("/inputs", path, {})["id"]
        job = client.post("/generations", request)
        generation = Caller(client, progress).wait("generate", f"/generations/{job['id']}")
        for image in generation["images"]:
            target = output / f"{generation['id']}-{image['index']}.{image['format']}"
            client.download(image["url"], target)
            progress.say(f"{target} (seed {image['seed']})")
