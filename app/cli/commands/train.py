"""`lorawright train`: from a folder of pictures to a LoRA file, over the public API."""

import difflib
import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.errors import CommandError
from app.cli.options import DataDir, Key, Url


def train(
    folder: Annotated[
        Path, typer.Argument(help="Folder of pictures (captions as .txt beside them), or a .zip.")
    ],
    trigger: Annotated[str, typer.Option(help="Word that calls the LoRA in a prompt.")],
    preset: Annotated[
        str, typer.Option(help="style, product, character or photography.")
    ] = "style",
    name: Annotated[
        str | None, typer.Option(help="Name of the LoRA; without it, the folder's.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Base model; without it, the server's default.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="A training parameter as NAME=VALUE, e.g. rank=16; VALUE is JSON, or else text; "
            "repeat for several."
        ),
    ] = None,
    from_lora: Annotated[
        str | None,
        typer.Option(help="A LoRA to go on from, by id or name; without it, from nothing."),
    ] = None,
    caption_template: Annotated[
        str | None,
        typer.Option(
            help="How captions are made of {caption}, {trigger} and {suffix}; "
            "without it, the server's default."
        ),
    ] = None,
    sample_prompt: Annotated[
        list[str] | None,
        typer.Option(help="Drawn at each checkpoint; repeat, up to eight."),
    ] = None,
    caption: Annotated[
        bool, typer.Option(help="Caption the pictures that have no caption.")
    ] = True,
    output: Annotated[
        Path | None, typer.Option(help="File to save; without it, NAME.safetensors here.")
    ] = None,
    url: Url = None,
    key: Key = None,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """Upload pictures, caption them, train a LoRA, and save its file."""
    from rich.console import Console

    from app.cli import steps
    from app.cli.progress import JobProgress
    from app.cli.target import connect

    if not folder.exists():
        raise CommandError(f"{folder} does not exist")
    name = name or folder.stem
    target = output or Path(f"{name}.safetensors")
    request: dict[str, Any] = {"name": name, "preset": preset, "params": parse_params(param or [])}
    request["sample_prompts"] = sample_prompt or []
    if base_model is not None:
        request["base_model"] = base_model
    if from_lora is not None:
        request["from_lora"] = from_lora
    console = Console(highlight=False)
    with (
        tempfile.TemporaryDirectory() as scratch,
        connect(url, key, data_dir) as client,
        JobProgress(console) as progress,
    ):
        caller = steps.Caller(client, progress)
        archive = folder
        if folder.is_dir():
            archive = Path(scratch) / "pictures.zip"
            steps.zip_folder(folder, archive, captions=True)
        dataset, rejected = steps.upload_dataset(
            caller,
            "upload",
            archive,
            name=name,
            task=preset,
            trigger=trigger,
            caption_template=caption_template,
        )
        for item in rejected:
            progress.say(f"rejected {item['filename']}: {item['reason']}")
        if caption:
            steps.caption(caller, "caption", dataset["id"])
        training = steps.train(caller, "train", {"dataset": dataset["id"], **request})
        client.download(f"/v1/loras/{training['lora']}/download", target)
    console.print(f"{target} is {training['lora']} ({training['id']})", soft_wrap=True)
    console.print(
        f'Try it: lorawright generate "{trigger}, …" --lora {training["lora"]}:1', soft_wrap=True
    )


def parse_params(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs as JSON has them: numbers, true, false, null; anything else is text.

    They are checked here, before pictures are uploaded and captioned for nothing.

    Raises:
        CommandError: a pair has no `=`, or names no parameter, or not one of its values.
    """
    from pydantic import ValidationError

    from app.trainings.params import TrainingParams

    params: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise CommandError(f"--param {pair} is not NAME=VALUE")
        try:
            params[name] = json.loads(value)
        except ValueError:
            params[name] = value
    try:
        TrainingParams.model_validate(params)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"])) or "--param"
        if wrong["type"] == "extra_forbidden":
            known = difflib.get_close_matches(place, TrainingParams.model_fields, n=1)
            hint = f"; {known[0]} is" if known else ""
            raise CommandError(f"{place} is no parameter{hint}") from error
        raise CommandError(f"{place}: {wrong['msg']}") from error
    return params
