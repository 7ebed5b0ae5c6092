"""LoRA tools on the wire: convert, resize, merge, extract."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from app.database import JsonObject
from app.jobs.requests import JobRequest
from app.jobs.schemas import JobRead
from app.loras.schemas import Layout
from app.web.text import PlainText

Precision = Literal["float16", "bfloat16", "float32"]
Rank = Annotated[int, Field(ge=1, le=512)]
# The least share of each change's norm that must stay.
Keep = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
# An id, or a name that only one LoRA of the account has.
LoraReference = Annotated[PlainText, Field(min_length=1, max_length=200)]


class _Tool(JobRequest):
    """Parent of the tools' requests."""


class Convert(_Tool):
    """Another layout of the same LoRA, which `GET /v1/loras/{id}/download?format=` then gives."""

    operation: Literal["convert"]
    lora: LoraReference
    layout: Layout


class _Making(_Tool):
    """What the tools that make a new LoRA share."""

    # Without it, what it was made of.
    name: PlainText | None = Field(default=None, min_length=1, max_length=200)
    description: PlainText = Field(default="", max_length=5000)
    # Of the matrices; without it, as they came, and float16 of an extraction.
    precision: Precision | None = None
    # The highest rank; with `keep` a module may have a lower one.
    rank: Rank | None = None
    keep: Keep | None = None


class Resize(_Making):
    """A LoRA of lower rank; `rank`, `keep` or both must be given."""

    operation: Literal["resize"]
    lora: LoraReference


class MergeInput(BaseModel):
    """One LoRA of a merge."""

    model_config = ConfigDict(extra="forbid")

    lora: LoraReference
    # None means the LoRA's own default weight.
    weight: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)


class Merge(_Making):
    """Several LoRAs as one; exact with the sum of their ranks unless `rank` or `keep` is given."""

    operation: Literal["merge"]
    loras: list[MergeInput] = Field(min_length=1)


class Extract(_Making):
    """A LoRA of what a fine-tune changed; `rank`, `keep` or both must be given."""

    operation: Literal["extract"]
    # Catalog ids of one architecture.
    base_model: str = Field(max_length=64)
    fine_tuned: str = Field(max_length=64)
    # As a training's `target`.
    targets: Literal["attention", "full", "conv"] = "full"
    text_encoders: StrictBool = False


LoraToolCreate = Annotated[Convert | Resize | Merge | Extract, Field(discriminator="operation")]


class ToolInput(BaseModel):
    """A LoRA as it was when the tool was asked for."""

    lora: str
    name: str
    weight: float
    sha256: str


class LoraToolRead(JobRead):
    operation: Literal["convert", "resize", "merge", "extract"]
    request: JsonObject
    inputs: list[ToolInput]
    # `error`, `ranks` and the rank and error of each module; null until it has succeeded.
    report: JsonObject | None
    # The LoRA it made, or of a conversion the one it was made for.
    lora: str | None
