"""What a base model is made for, from its own files, or from the catalog where it is listed."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.catalog import BaseModelEntry, Catalog
from worker.ml.training.errors import BaseModelUnsuitable, SpecInvalid

# SDXL's own UNet: the width of the text it reads, its channels, and its transformers' depth.
_SDXL = {
    "cross_attention_dim": 2048,
    "block_out_channels": [320, 640, 1280],
    "transformer_layers_per_block": [1, 2, 10],
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def base_model_entry(
    wanted: str, revision: str | None, catalog: Catalog, catalog_path: Path
) -> BaseModelEntry:
    """The catalog's entry of a base model, or one made from the model's own files.

    Args:
        wanted: a folder, a hub id, or the id of an entry in the catalog.
        revision: of a hub id; None: the catalog's, or the newest.

    Raises:
        SpecInvalid: it is none of the three, or no StableDiffusionXLPipeline.
        BaseModelUnsuitable: the hub has no such model, or cannot be reached.
    """
    folder = Path(wanted)
    if os.path.isdir(folder):
        if revision is not None:
            raise SpecInvalid(f"--base-revision is for hub ids; {wanted} is a folder")
        for entry in catalog.base_models:
            listed = entry.source_kind == "folder" and Path(entry.location(catalog_path))
            if listed and listed == folder.resolve():
                return entry
        return _from_files(wanted, None, lambda name: folder / name)
    named = catalog.base_model(wanted)
    if named is not None and revision is None:
        return named
    if not _HUB_ID.fullmatch(wanted):
        raise SpecInvalid(
            f"--base-model {wanted} is no folder here, no hub id such as owner/name, and none of "
            f"the catalog's: {', '.join(entry.id for entry in catalog.base_models)}"
        )
    for entry in catalog.base_models:
        if entry.source == wanted and revision in (None, entry.revision):
            return entry
    return _from_files(wanted, revision, lambda name: _fetched(wanted, revision, name))


def _from_files(wanted: str, revision: str | None, locate: Callable[[str], Path]) -> BaseModelEntry:
    index = _json(wanted, locate, "model_index.json")
    kind = index.get("_class_name")
    if kind != "StableDiffusionXLPipeline":
        raise SpecInvalid(f"--base-model {wanted} holds a {kind}, not a StableDiffusionXLPipeline")
    is_folder = os.path.isdir(wanted)
    vae = _json(wanted, locate, "vae/config.json")
    unet = _json(wanted, locate, "unet/config.json")
    try:
        # Each block of the VAE but the last halves the picture.
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        return BaseModelEntry(
            id=_slug(wanted),
            title=wanted,
            source=str(Path(wanted).resolve()) if is_folder else wanted,
            source_kind="folder" if is_folder else "hub",
            revision=revision,
            architecture=_architecture(unet),
            native_resolution=unet["sample_size"] * factor,
            vae_scale_factor=factor,
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise SpecInvalid(f"--base-model {wanted} does not say what it is: {error}") from error


def _architecture(unet: dict[str, Any]) -> str:
    """`sdxl`, or for another shape a name that every UNet of this shape has."""
    shape = {name: unet[name] for name in _SDXL}
    if shape == _SDXL:
        return "sdxl"
    digest = hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()
    return f"unet-{digest[:8]}"


def _json(wanted: str, locate: Callable[[str], Path], name: str) -> dict[str, Any]:
    try:
        data = json.loads(locate(name).read_text())
    except OSError as error:
        raise SpecInvalid(f"--base-model {wanted} lacks {name}: {error.strerror}") from error
    except ValueError as error:
        raise SpecInvalid(f"--base-model {wanted}: {name} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise SpecInvalid(f"--base-model {wanted}: {name} holds no object")
    return data


def _fetched(hub_id: str, revision: str | None, name: str) -> Path:
    # Imported late: only a hub id needs it.
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, name, revision=revision))
    except OSError as error:  # the hub's own errors are of this kind too
        raise BaseModelUnsuitable(f"{hub_id} cannot be had from the hub: {error}") from error


def _slug(wanted: str) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", Path(wanted).resolve().name.lower()).lstrip("._-")
    return name[:64] or "base"
