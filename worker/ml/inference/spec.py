"""What one generation is asked to draw, frozen: the API resolves a request into exactly this."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelSpec(_Frozen):
    """The base model, as the catalog describes it."""

    id: str
    # A folder or a hub id, to hand to `load_base_model`.
    location: str
    revision: str | None = None
    architecture: str
    # Pixels per latent, each way.
    vae_scale_factor: int = Field(default=8, ge=1, le=64)


class LoraSpec(_Frozen):
    """One LoRA of the set."""

    id: str
    # The safetensors file on this machine.
    path: str
    # Of the whole file; the file is refused when it differs.
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    weight: float = Field(ge=-10, le=10, allow_inf_nan=False)


class GenerationSpec(_Frozen):
    """Everything that decides the pixels."""

    prompt: str = Field(max_length=4000)
    # Empty means the base's own unconditional embeddings.
    negative_prompt: str = Field(default="", max_length=4000)
    width: int = Field(ge=8, multiple_of=8)
    height: int = Field(ge=8, multiple_of=8)
    steps: int = Field(default=30, ge=1, le=1000)
    guidance_scale: float = Field(default=7.5, ge=0, allow_inf_nan=False)
    scheduler: str = "euler"
    # One image for each, in this order.
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**64)], ...] = Field(min_length=1)
    loras: tuple[LoraSpec, ...] = ()
    base_model: BaseModelSpec
    # A picture on this machine to start from; None starts from noise.
    init_image: str | None = None
    # How much of the denoising an init image goes through: 0 keeps it, 1 replaces it.
    strength: float = Field(default=0.8, ge=0, le=1)
