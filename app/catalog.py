"""The catalog: which base models and captioners this installation offers.

A TOML file (`assets/catalog.toml` unless `LORAWRIGHT_CATALOG_PATH` says otherwise) is read by the
API, to check requests and fill in defaults, and by the worker, to find the files. The same code
runs every base model; only its entry differs.
"""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Entry(BaseModel):
    """What base models and captioners have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)
    title: str
    # A folder (relative to the catalog file) or a hub id such as "owner/name".
    source: str
    source_kind: Literal["folder", "hub"]
    # The hub's revision or None; a folder has none.
    revision: str | None = None

    def location(self, catalog_path: Path) -> str:
        """The absolute folder, or the hub id, to hand to `from_pretrained`."""
        if self.source_kind == "hub":
            return self.source
        return str((catalog_path.parent / self.source).resolve())


class GenerationDefaults(BaseModel):
    """What a generation uses when the request is silent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=30, ge=1, le=150)
    guidance_scale: float = Field(default=7.5, ge=0, le=30)
    scheduler: str = "euler"


class BaseModelEntry(Entry):
    """A StableDiffusionXLPipeline: where it is and what it was made for."""

    # LoRAs fit every base of the same architecture, and no other.
    architecture: str
    # What the UNet foretells, and whether its last timestep is pure noise; unset: as the base's
    # own scheduler configuration, or the marks of a single file, say.
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    zero_terminal_snr: bool | None = None
    native_resolution: int = Field(ge=32, le=4096)
    # Pixels per latent, each way: 8 for SDXL's VAE.
    vae_scale_factor: int = Field(default=8, ge=1, le=64)
    # Widths and heights must be multiples of this many pixels.
    size_multiple: int = Field(default=8, ge=1)
    max_side_px: int = Field(default=2048, ge=32)
    generation: GenerationDefaults = GenerationDefaults()
    # Training parameters that differ from the preset's on this base.
    training: dict[str, Any] = Field(default_factory=dict)


class CaptionerEntry(Entry):
    """A BlipForConditionalGeneration with its processor."""

    max_new_tokens: int = Field(default=40, ge=1, le=200)


class Catalog(BaseModel):
    """The whole file. Ids are unique; a default names an entry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_models: list[BaseModelEntry]
    captioners: list[CaptionerEntry]

    def base_model(self, entry_id: str) -> BaseModelEntry | None:
        """The entry of that id, or None."""
        return next((e for e in self.base_models if e.id == entry_id), None)

    def captioner(self, entry_id: str) -> CaptionerEntry | None:
        """The entry of that id, or None."""
        return next((e for e in self.captioners if e.id == entry_id), None)


@cache
def load_catalog(path: Path) -> Catalog:
    """Read and check the catalog file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not TOML, or an entry breaks its limits.
    """
    return Catalog.model_validate(tomllib.loads(path.read_text()))
