"""LoRAs on the wire."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.database import JsonObject
from app.web.text import PlainText

Layout = Literal["kohya", "diffusers", "peft"]
# Files from elsewhere come in others too.
StoredLayout = Literal["kohya", "diffusers", "peft", "other"]


class FileProblem(BaseModel):
    """Why a file cannot be used."""

    code: str
    detail: str


class FileFamily(BaseModel):
    """The kind of model a file was made for."""

    id: str
    title: str


class FileNames(BaseModel):
    """The first names of a list, and how many there are in all."""

    count: int
    names: list[str]


class FileHashes(BaseModel):
    """SHA-256 in hex; `autov2` and `autov3` are what web UIs and model sites show."""

    sha256: str
    autov2: str
    autov3: str
    # Of what follows the header.
    data_sha256: str
    # Whether the file's own `sshs_…` hashes are those of its content; null without one.
    model_hash_matches: bool | None
    legacy_hash_matches: bool | None


class FileTag(BaseModel):
    """A tag of the training's captions, and how often it occurred."""

    tag: str
    count: int


class TriggerPhrase(BaseModel):
    """Words that may call up what was learnt, and where they were found."""

    phrase: str
    source: Literal["modelspec", "embedding", "tags"]


class LoraFileReport(BaseModel):
    """What the check of a LoRA file found."""

    usable: bool
    problems: list[FileProblem]
    # Null when nothing tells it.
    family: FileFamily | None
    # The catalog's name of what the file fits; null when it fits nothing that is known.
    architecture: str | None
    layout: StoredLayout | None
    kinds: list[Literal["lora", "locon", "dora", "loha", "lokr"]]
    modules: int
    matched: int
    # Matched modules by network: unet, text_encoder, text_encoder_2.
    networks: dict[str, int]
    unmatched: FileNames
    misfits: FileNames
    # Of most modules; `ranks` and `alphas` have all that occur.
    rank: int | None
    alpha: float | None
    ranks: list[int]
    alphas: list[float]
    # The word that token vectors in the file stand for.
    trigger: str | None
    tensors: int
    dtypes: list[str]
    bytes: int
    hashes: FileHashes
    # What `ss_*` says of the training.
    training: dict[str, str | float]
    tags: list[FileTag]
    modelspec: dict[str, str]
    trigger_phrases: list[TriggerPhrase]


class LoraInspection(LoraFileReport):
    """The report of a file that is not kept, and what it says of itself."""

    file_metadata: dict[str, str]
    # Entries too long to be shown.
    metadata_left_out: FileNames


class LoraCheck(BaseModel):
    """How a client wants its file to be checked."""

    model_config = ConfigDict(extra="forbid")

    base_model: str | None = Field(
        default=None,
        max_length=64,
        description="Catalog id; without it, the first of the architecture the file fits",
    )
    strict: bool = Field(
        default=True, description="Refuse a file with keys that have no place in the base model"
    )


class LoraUpload(LoraCheck):
    """What a client says of the file it uploads."""

    name: PlainText | None = Field(
        default=None, min_length=1, max_length=200, description="Without it, the file's own"
    )
    description: PlainText = Field(default="", max_length=5000)
    trigger_word: PlainText | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Without it, the one that the file tells, if any",
    )
    default_weight: float = Field(default=1.0, ge=-2, le=2)


class LoraRead(BaseModel):
    id: str
    object: Literal["lora"] = "lora"
    name: str
    description: str
    trigger_word: str | None
    default_weight: float
    base_model: str
    architecture: str
    source: Literal["training", "upload", "tool"]
    training: str | None
    checkpoint: str | None
    rank: int
    alpha: float
    sha256: str
    bytes: int
    # Of the stored file.
    layout: StoredLayout
    file_metadata: JsonObject
    # Null of a checkpoint that was published by request.
    report: LoraFileReport | None
    created_at: datetime


class LoraPatch(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: PlainText = Field(default="", min_length=1, max_length=200)
    description: PlainText = Field(default="", max_length=5000)
    default_weight: float = Field(default=1.0, ge=-2, le=2)
    trigger_word: PlainText | None = Field(default=None, max_length=100)
