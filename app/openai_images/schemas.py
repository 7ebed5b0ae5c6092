"""What OpenAI's clients send and expect; fields of our own go through their `extra_body`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.generations.schemas import MAX_SEED, LoraUse
from app.web.text import PlainText


class ImagesRequest(BaseModel):
    """`images.generate`. Settings that have no meaning here are taken at their neutral value."""

    model_config = ConfigDict(extra="forbid")

    # A base model's id, or a LoRA's id or name with or without a weight: `lora_…:0.7`.
    model: str | None = Field(default=None, max_length=300)
    prompt: PlainText
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    size: str | None = Field(default=None, pattern=r"^(auto|\d{1,5}x\d{1,5})$")
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    user: str | None = None
    quality: Literal["auto", "standard"] | None = None
    style: None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto"] | None = None
    output_compression: Literal[100] | None = None
    partial_images: Literal[0] | None = None
    stream: Literal[False] | None = None

    negative_prompt: PlainText = ""
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)
    steps: int | None = Field(default=None, ge=1, le=150)
    guidance_scale: float | None = Field(default=None, ge=0, le=30, allow_inf_nan=False)
    scheduler: str | None = Field(default=None, max_length=40)
    loras: list[LoraUse] = Field(default_factory=list)


class OpenAIError(BaseModel):
    """What went wrong, as their clients show it."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorBody(BaseModel):
    """The body of every answer of these routes that is not a success."""

    error: OpenAIError


class ImageData(BaseModel):
    """One picture: where it is, or what it is."""

    url: str | None = None
    b64_json: str | None = None


class ImagesResponse(BaseModel):
    created: int
    data: list[ImageData]
    output_format: str
    size: str


class ModelRead(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelRead]
