"""`lorawright base-model`: bring single-file base models to where every worker can fetch them."""

import hashlib
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr
from rich.console import Console

from app.cli.errors import CommandError
from app.cli.options import DataDir

if TYPE_CHECKING:
    from app.settings import Settings

app = typer.Typer(help="Base models of the catalog.", no_args_is_help=True)
# Twice the size of an SDXL in float32.
_MAX_BYTES = 32 * 1024**3


class Prediction(StrEnum):
    """What a UNet may foretell."""

    epsilon = "epsilon"
    v_prediction = "v_prediction"


@app.callback()
def base_model() -> None:
    """Base models of the catalog."""


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A .safetensors checkpoint of SDXL, in one file.")],
    id: Annotated[str, typer.Option(help="What requests will call it, e.g. ink-xl.")],
    like: Annotated[
        str, typer.Option(help="Id of the folder or hub entry with the same configuration.")
    ] = "sdxl-1.0",
    title: Annotated[str | None, typer.Option(help="For people; the id unless given.")] = None,
    prediction_type: Annotated[
        Prediction | None,
        typer.Option(help="What its UNet foretells; read off the file's marks unless given."),
    ] = None,
    zero_terminal_snr: Annotated[
        bool, typer.Option(help="It was trained to begin at pure noise.")
    ] = False,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """Check a checkpoint, upload it to the bucket, and print the catalog entry to paste.

    The bucket is that of LORAWRIGHT_S3_*, or else that of the embedded stack in --data-dir, and the
    catalog that of LORAWRIGHT_CATALOG_PATH, as for the API and the workers, which must be started
    anew once the entry stands there.
    """
    from app.errors import LorawrightError
    from app.settings import get_settings
    from app.storage import make_store

    errors = Console(stderr=True, highlight=False)
    catalog_path = get_settings().catalog_path
    holds = _checked(file)
    errors.print(f"{file.name} holds {', '.join(sorted(holds))}", soft_wrap=True)
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    key = f"base-models/{sha256}.safetensors"
    entry: dict[str, Any] = {
        "id": id,
        "title": title or id,
        "source": key,
        "source_kind": "s3",
        "sha256": sha256,
        "bytes": file.stat().st_size,
        "like": like,
    }
    if prediction_type is not None:
        entry["prediction_type"] = prediction_type.value
    if zero_terminal_snr:
        entry["zero_terminal_snr"] = True
    # Before gigabytes travel.
    _check_entry(entry, catalog_path)
    errors.print(f"uploading {entry['bytes']} bytes to {key}", soft_wrap=True)
    try:
        make_store(_with_stack(get_settings(), data_dir)).put_file(
            key, file, "application/octet-stream"
        )
    except LorawrightError as error:
        raise CommandError(error.detail) from error
    errors.print(f"Put this into {catalog_path}, and start the API and the workers anew:")
    console = Console(highlight=False)
    console.print(_toml(entry), markup=False, soft_wrap=True)


def _with_stack(settings: "Settings", data_dir: Path) -> "Settings":
    """The settings, with the storage of a folder's stack where they name none."""
    from app.cli.stack.state import load_state

    state = None if settings.s3_endpoint_url else load_state(data_dir)
    if state is None or state.s3_endpoint_url is None:
        return settings
    told = {
        "s3_endpoint_url": state.s3_endpoint_url,
        "s3_access_key_id": state.secrets.s3_access_key_id,
        "s3_secret_access_key": SecretStr(state.secrets.s3_secret_access_key),
    }
    return settings.model_copy(update=told)


def _checked(file: Path) -> frozenset[str]:
    """The parts that a checkpoint holds, by its header alone."""
    from app.checkpoints import NotACheckpoint, checkpoint_parts
    from app.lora_format.errors import LoraFileError
    from app.lora_format.header import WITH_INTEGERS, HeaderLimits, read_header

    limits = HeaderLimits(file_bytes=_MAX_BYTES, item_bytes=WITH_INTEGERS)
    try:
        return checkpoint_parts(read_header(file, limits).tensors).parts
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from error
    except LoraFileError as error:
        raise CommandError(f"{file} is no sound safetensors file: {error}") from error
    except NotACheckpoint as error:
        raise CommandError(f"{file} is no SDXL checkpoint: {error}") from error


def _check_entry(entry: dict[str, Any], catalog_path: Path) -> None:
    """The catalog with one more entry must be one."""
    import tomllib

    from pydantic import ValidationError

    from app.catalog import Catalog

    try:
        told = tomllib.loads(catalog_path.read_text())
    except (OSError, ValueError) as error:
        raise CommandError(f"the catalog {catalog_path} cannot be read: {error}") from error
    try:
        Catalog.model_validate({**told, "base_models": [*told.get("base_models", []), entry]})
    except ValidationError as error:
        said = "; ".join(
            ": ".join([*(str(part) for part in item["loc"][2:]), item["msg"]])
            for item in error.errors()
        ).replace("Value error, ", "")
        raise CommandError(f"the catalog would not take this entry: {said}") from error


def _toml(entry: dict[str, Any]) -> str:
    # A JSON string, number or truth value is TOML's too.
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in entry.items()]
    return "\n".join(["", "[[base_models]]", *lines])
