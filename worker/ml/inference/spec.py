"""What one generation is asked to draw, frozen: the API resolves a request into exactly this."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from worker.ml.base_models.variant_fields import VariantFields

Weight = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelSpec(_Frozen, VariantFields):
    """The base model, as the catalog describes it."""

    id: str
    # A folder or a hub id, or a single safetensors file on this machine.
    location: str
    revision: str | None = None
    architecture: str
    # Pixels per latent, each way.
    vae_scale_factor: int = Field(default=8, ge=1, le=64)


class LoraWeights(_Frozen):
    """How strong a LoRA is in each part of the base.

    `blocks` names starts of the modules' paths, e.g. `unet.down_blocks.1` or
    `text_encoder_2`; the longest that fits a module decides, and replaces the weight above.
    """

    unet: Weight = 1.0
    # Both text encoders.
    text_encoder: Weight = 1.0
    blocks: Mapping[str, Weight] = Field(default_factory=dict)

    @classmethod
    def everywhere(cls, weight: float) -> "LoraWeights":
        """The same weight in all parts."""
        return cls(unet=weight, text_encoder=weight)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal weights, and hashable."""
        return self.unet, self.text_encoder, tuple(sorted(self.blocks.items()))

    def of(self, path: str) -> float:
        """The weight of the module at a canonical path."""
        fitting = [block for block in self.blocks if path == block or path.startswith(f"{block}.")]
        if fitting:
            return self.blocks[max(fitting, key=len)]
        return self.unet if path.startswith("unet.") else self.text_encoder


class LoraSpec(_Frozen):
    """One LoRA of the set."""

    id: str
    # The safetensors file on this machine.
    path: str
    # Of the whole file; the file is refused when it differs.
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    weight: Weight | LoraWeights
    # The part of the denoising it takes part in, as fractions of the steps: start <= t < end.
    start: float = Field(default=0.0, ge=0, le=1)
    end: float = Field(default=1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _start_before_end(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start {self.start:g} is not before end {self.end:g}")
        return self

    @property
    def weights(self) -> LoraWeights:
        """The weight of each part, whichever way it was given."""
        if isinstance(self.weight, LoraWeights):
            return self.weight
        return LoraWeights.everywhere(self.weight)


class HiresSpec(_Frozen):
    """A second pass: the picture is enlarged, and drawn again in part."""

    # Of both sides.
    scale: float = Field(default=1.5, gt=1, le=4)
    strength: float = Field(default=0.5, gt=0, le=1)
    # None: as many as the first pass, of which `strength` are run.
    steps: int | None = Field(default=None, ge=1, le=1000)
    # Enlarge the latents, or the decoded picture by Lanczos.
    upscaler: Literal["latent", "lanczos"] = "latent"


class GenerationSpec(_Frozen):
    """Everything that decides the pixels."""

    prompt: str = Field(max_length=4000)
    # Empty means the base's own unconditional embeddings.
    negative_prompt: str = Field(default="", max_length=4000)
    width: int = Field(ge=8, multiple_of=8)
    height: int = Field(ge=8, multiple_of=8)
    steps: int = Field(default=30, ge=1, le=1000)
    guidance_scale: float = Field(default=7.5, ge=0, allow_inf_nan=False)
    # 0 leaves guidance as it is, 1 gives its result the spread of the unguided (Lin et al. 2023).
    guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    scheduler: str = "euler"
    # One image for each, in this order.
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**64)], ...] = Field(min_length=1)
    loras: tuple[LoraSpec, ...] = ()
    base_model: BaseModelSpec
    # A picture on this machine to start from; None starts from noise.
    init_image: str | None = None
    # A picture on this machine whose white is drawn anew and whose black is kept.
    mask_image: str | None = None
    # How much of the denoising an init image goes through: 0 keeps it, 1 replaces it.
    strength: float = Field(default=0.8, ge=0, le=1)
    hires: HiresSpec | None = None
    # How many pictures of the way there to show, 0 for none.
    previews: int = Field(default=0, ge=0, le=20)

    @model_validator(mode="after")
    def _mask_needs_image(self) -> Self:
        if self.mask_image is not None and self.init_image is None:
            raise ValueError("mask_image needs an init_image")
        if self.mask_image is not None and self.hires is not None:
            raise ValueError("hires and mask_image exclude each other")
        return self
