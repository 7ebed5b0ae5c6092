"""Generations on the wire."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.database import JsonObject
from app.jobs.schemas import JobRead
from app.web.text import PlainText

ImageFormat = Literal["png", "webp", "jpeg"]
# Torch's CPU generator takes 64 bits; the wire keeps to what every JSON reader holds exactly.
MAX_SEED = 2**53 - 1


class LoraUse(BaseModel):
    """One LoRA of a generation."""

    model_config = ConfigDict(extra="forbid")

    # An id, or a name that only one LoRA of the account has.
    lora: PlainText = Field(min_length=1, max_length=200)
    # None means the LoRA's own default weight.
    weight: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)


class GenerationCreate(BaseModel):
    """What is left out is filled in from the base model's entry in the catalog."""

    model_config = ConfigDict(extra="forbid")

    prompt: PlainText
    negative_prompt: PlainText = ""
    loras: list[LoraUse] = Field(default_factory=list)
    base_model: str | None = Field(default=None, max_length=64)
    width: int | None = Field(default=None, ge=32)
    height: int | None = Field(default=None, ge=32)
    steps: int | None = Field(default=None, ge=1, le=150)
    guidance_scale: float | None = Field(default=None, ge=0, le=30, allow_inf_nan=False)
    scheduler: str | None = Field(default=None, max_length=40)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    num_images: int = Field(default=1, ge=1, le=8)
    format: ImageFormat = "png"
    metadata: dict[str, str] = Field(default_factory=dict, max_length=16)


class GeneratedImageRead(BaseModel):
    index: int
    url: str
    seed: int
    width: int
    height: int
    format: str
    bytes: int
    sha256: str


class LoraReport(BaseModel):
    """What of a LoRA's file found its place in the base model."""

    lora: str
    name: str
    weight: float
    # Modules adapted; None until the job has run.
    matched: int | None
    unmatched: list[str]


class GenerationRead(JobRead):
    base_model: str
    request: JsonObject
    loras: list[LoraReport]
    images: list[GeneratedImageRead]
    receipt: JsonObject | None
