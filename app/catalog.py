"""The catalog: which base models and captioners this installation offers.

A TOML file (`assets/catalog.toml` unless `LORAWRIGHT_CATALOG_PATH` says otherwise) is read by the
API, to check requests and fill in defaults, and by the worker, to find the files. The same code
runs every base model; only its entry differs. docs/base-models.md shows entries of every kind.
"""

import re
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Sha256 = re.compile(r"[0-9a-f]{64}")
# What an entry takes over from the one it is `like`, where it does not say so itself.
_LIKENESS = (
    "architecture",
    "native_resolution",
    "vae_scale_factor",
    "size_multiple",
    "max_side_px",
    "generation",
    "training",
)


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
        return _location(self.source, self.source_kind, catalog_path)


class GenerationDefaults(BaseModel):
    """What a generation uses when the request is silent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=30, ge=1, le=150)
    guidance_scale: float = Field(default=7.5, ge=0, le=30)
    scheduler: str = "euler"


class VaeEntry(BaseModel):
    """A VAE in place of a base model's own, or what is special about its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # The folder or hub id of an AutoencoderKL; None: the base's own.
    source: str | None = None
    source_kind: Literal["folder", "hub"] | None = None
    revision: str | None = None
    # Whether it stays finite in half precision, in which it is twice as quick; SDXL 1.0's own
    # does not.
    half_safe: bool = False

    @model_validator(mode="after")
    def _source_has_kind(self) -> Self:
        if (self.source is None) != (self.source_kind is None):
            raise ValueError("source and source_kind go together")
        return self

    def location(self, catalog_path: Path) -> str | None:
        """The absolute folder, the hub id, or None for the base's own."""
        if self.source is None:
            return None
        return _location(self.source, self.source_kind, catalog_path)


class BaseModelEntry(Entry):
    """A StableDiffusionXLPipeline, or one file with its weights: where it is, what it is for."""

    # A file is one in safetensors with all weights, as web UIs have them: on every worker's disk
    # (`file`, relative to the catalog file), or in the service's own bucket (`s3`, its key), from
    # where each worker fetches it once.
    source_kind: Literal["folder", "hub", "file", "s3"]  # type: ignore[assignment]
    # Of an s3 file: its hash in hex, and its size.
    sha256: str | None = None
    bytes: int | None = Field(default=None, ge=1)
    # The id of a folder or hub entry. A file takes its configuration and tokenizers, and parts
    # that the file leaves out; whatever of the below an entry does not say is as it says.
    like: str | None = None
    vae: VaeEntry = VaeEntry()
    # What the UNet foretells, and whether its last timestep is pure noise; unset: as the base's
    # own scheduler configuration, or the marks of a single file, say.
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    zero_terminal_snr: bool | None = None
    # LoRAs fit every base of the same architecture, and no other.
    architecture: str
    native_resolution: int = Field(ge=32, le=4096)
    # Pixels per latent, each way: 8 for SDXL's VAE.
    vae_scale_factor: int = Field(default=8, ge=1, le=64)
    # Widths and heights must be multiples of this many pixels.
    size_multiple: int = Field(default=8, ge=1)
    max_side_px: int = Field(default=2048, ge=32)
    generation: GenerationDefaults = GenerationDefaults()
    # Training parameters that differ from the preset's on this base.
    training: dict[str, Any] = Field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """Whether the weights are one file."""
        return self.source_kind in ("file", "s3")

    @model_validator(mode="after")
    def _source_is_whole(self) -> Self:
        if self.source_kind == "s3":
            if self.sha256 is None or not Sha256.fullmatch(self.sha256):
                raise ValueError("an s3 source needs its sha256, 64 hex digits")
            if self.bytes is None:
                raise ValueError("an s3 source needs its size in bytes")
        elif self.sha256 is not None or self.bytes is not None:
            raise ValueError(f"sha256 and bytes belong to s3 sources; this is a {self.source_kind}")
        if self.is_file and not self.source.endswith(".safetensors"):
            raise ValueError(f"source is {self.source!r}; only .safetensors files are read")
        if self.source_kind != "hub" and self.revision is not None:
            raise ValueError(f"revision is for hub ids; this is a {self.source_kind}")
        return self


class CaptionerEntry(Entry):
    """A BlipForConditionalGeneration with its processor."""

    max_new_tokens: int = Field(default=40, ge=1, le=200)


class Catalog(BaseModel):
    """The whole file. Ids are unique; a default names an entry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_models: list[BaseModelEntry]
    captioners: list[CaptionerEntry]

    @model_validator(mode="before")
    @classmethod
    def _fill_in_likenesses(cls, told: Any) -> Any:
        """Entries as they stand, each with what it leaves out and the one it is like says."""
        entries = told.get("base_models") if isinstance(told, dict) else None
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            return told
        by_id = {entry.get("id"): entry for entry in entries}
        _check_unique("base_models", [entry.get("id") for entry in entries])
        filled = [_filled(entry, by_id) for entry in entries]
        return {**told, "base_models": filled}

    @model_validator(mode="after")
    def _captioners_are_unique(self) -> Self:
        _check_unique("captioners", [entry.id for entry in self.captioners])
        return self

    def base_model(self, entry_id: str) -> BaseModelEntry | None:
        """The entry of that id, or None."""
        return next((e for e in self.base_models if e.id == entry_id), None)

    def captioner(self, entry_id: str) -> CaptionerEntry | None:
        """The entry of that id, or None."""
        return next((e for e in self.captioners if e.id == entry_id), None)

    def variant(self, entry: BaseModelEntry, catalog_path: Path) -> dict[str, Any]:
        """What of a base model is otherwise than at its location, as the ML code's specs say it.

        Only what there is to say: an entry without any of it gives an empty dict.
        """
        told: dict[str, Any] = {
            "vae": entry.vae.location(catalog_path),
            "vae_revision": entry.vae.revision,
            "vae_half_safe": entry.vae.half_safe or None,
            "prediction_type": entry.prediction_type,
            "zero_terminal_snr": entry.zero_terminal_snr,
        }
        like = self.base_model(entry.like) if entry.like is not None else None
        if entry.is_file and like is not None:
            told |= {"config": like.location(catalog_path), "config_revision": like.revision}
        return {name: value for name, value in told.items() if value is not None}


@cache
def load_catalog(path: Path) -> Catalog:
    """Read and check the catalog file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not TOML, or an entry breaks its limits.
    """
    return Catalog.model_validate(tomllib.loads(path.read_text()))


def _check_unique(kind: str, ids: list[Any]) -> None:
    twice = [name for name, n in Counter(map(str, ids)).items() if n > 1]
    if twice:
        raise ValueError(f"{kind}: {twice[0]} stands more than once")


def _location(source: str, kind: str | None, catalog_path: Path) -> str:
    if kind in ("hub", "s3"):
        return source
    return str((catalog_path.parent / source).resolve())


def _filled(entry: dict[str, Any], by_id: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """An entry with what the one it is like says and it does not.

    Raises:
        ValueError: there is no such entry, it is like another itself, or a file is like none.
    """
    name, like = entry.get("id"), entry.get("like")
    if like is None:
        if entry.get("source_kind") in ("file", "s3"):
            raise ValueError(
                f'base_models: {name} is a single file; it needs like = "…", the id of a folder or '
                "hub entry with the same configuration"
            )
        return entry
    model = by_id.get(like)
    if model is None:
        known = ", ".join(str(each) for each in by_id if each != name)
        raise ValueError(f"base_models: {name} is like {like}, which is none of {known}")
    if model.get("source_kind") not in ("folder", "hub") or "like" in model:
        raise ValueError(
            f"base_models: {name} is like {like}, which is no whole pipeline of its own: it must "
            "be a folder or hub entry that is like no other"
        )
    inherited = {key: model[key] for key in _LIKENESS if key in model}
    filled = inherited | entry
    for table in ("generation", "training"):
        if isinstance(inherited.get(table), dict) and isinstance(entry.get(table), dict):
            filled[table] = inherited[table] | entry[table]
    return filled
