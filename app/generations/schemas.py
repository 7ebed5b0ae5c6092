"""Generations on the wire."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.database import JsonObject
from app.generations.prompt_tags import WEIGHT_LIMIT
from app.jobs.requests import JobRequest
from app.jobs.schemas import JobRead
from app.web.text import PlainText

ImageFormat = Literal["png", "webp", "jpeg"]
# Torch's CPU generator takes 64 bits; the wire keeps to what every JSON reader holds exactly.
MAX_SEED = 2**53 - 1
# A body has a limit of its own, which a picture in a `data:` URL must stay under.
ImageReference = Annotated[str, Field(min_length=4)]


Weight = Annotated[float, Field(ge=-WEIGHT_LIMIT, le=WEIGHT_LIMIT, allow_inf_nan=False)]
# The start of a module's path: a network, a block, or a module of it.
BlockPath = Annotated[
    str, Field(pattern=r"^(unet|text_encoder|text_encoder_2)(\.\w+)*$", max_length=200)
]


class LoraWeights(BaseModel):
    """A weight for each part of the base model.

    `blocks` names starts of modules' paths, e.g. `unet.down_blocks.1` or `text_encoder_2`; the
    longest that fits a module decides. What is left out has the LoRA's default weight.
    """

    model_config = ConfigDict(extra="forbid")

    unet: Weight | None = None
    text_encoder: Weight | None = None
    blocks: dict[BlockPath, Weight] = Field(default_factory=dict, max_length=100)


class LoraUse(BaseModel):
    """One LoRA of a generation."""

    model_config = ConfigDict(extra="forbid")

    # An id, or a name that only one LoRA of the account has.
    lora: PlainText = Field(min_length=1, max_length=200)
    # None means the LoRA's own default weight.
    weight: Weight | LoraWeights | None = None
    # The part of the denoising in which it takes part, as fractions of the steps.
    start: float = Field(default=0.0, ge=0, le=1)
    end: float = Field(default=1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _start_before_end(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start is {self.start:g} and end {self.end:g}; start comes first")
        return self


class Hires(BaseModel):
    """A second pass: the picture is enlarged by `scale`, and `strength` of it drawn again."""

    model_config = ConfigDict(extra="forbid")

    scale: float = Field(default=1.5, gt=1, le=4)
    strength: float = Field(default=0.5, gt=0, le=1)
    steps: int | None = Field(default=None, ge=1, le=150)
    upscaler: Literal["latent", "lanczos"] = "latent"


class GenerationCreate(JobRequest):
    """What is left out is filled in from the base model's entry in the catalog."""

    prompt: PlainText
    negative_prompt: PlainText = ""
    loras: list[LoraUse] = Field(default_factory=list)
    base_model: str | None = Field(default=None, max_length=64)
    width: int | None = Field(default=None, ge=32)
    height: int | None = Field(default=None, ge=32)
    steps: int | None = Field(default=None, ge=1, le=150)
    guidance_scale: float | None = Field(default=None, ge=0, le=30, allow_inf_nan=False)
    guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    scheduler: str | None = Field(default=None, max_length=40)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    num_images: int = Field(default=1, ge=1, le=8)
    # An uploaded picture (`up_…`), one of a dataset (`img_…`), one that was drawn
    # (`gen_…/0`), or a `data:` URL.
    init_image: ImageReference | None = None
    # White is drawn anew, black is kept; it needs an init_image.
    mask_image: ImageReference | None = None
    # How much of the denoising the init image goes through.
    strength: float = Field(default=0.8, ge=0, le=1)
    hires: Hires | None = None
    # How many pictures of the way there the event stream brings, each as a `sample` event.
    previews: int = Field(default=0, ge=0, le=20)
    format: ImageFormat = "png"


class InputImageRead(BaseModel):
    """A picture that was sent to start from, or a mask."""

    id: str
    object: Literal["input_image"] = "input_image"
    width: int
    height: int
    bytes: int
    sha256: str
    url: str
    created_at: datetime
    # Null where it is kept until it is deleted.
    expires_at: datetime | None


class GeneratedImageRead(BaseModel):
    index: int
    # Null once it has expired.
    url: str | None
    seed: int
    width: int
    height: int
    format: str
    bytes: int
    sha256: str
    # What to POST to /v1/generations to have this picture alone again.
    request: JsonObject


class LoraReport(BaseModel):
    """What of a LoRA's file found its place in the base model."""

    lora: str
    name: str
    weight: float | JsonObject
    start: float
    end: float
    # Modules adapted; None until the job has run.
    matched: int | None
    unmatched: list[str]


class GenerationRead(JobRead):
    base_model: str
    # Until when its pictures are kept; null: until it is deleted.
    expires_at: datetime | None
    request: JsonObject
    loras: list[LoraReport]
    images: list[GeneratedImageRead]
    receipt: JsonObject | None
