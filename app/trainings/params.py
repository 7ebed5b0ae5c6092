"""Every training parameter, its default (the `style` preset on SDXL) and its range.

The wire, the frozen spec and the trainer share this one definition. It imports nothing but
pydantic, so that the trainer can run from a shell with no service anywhere.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Task = Literal["style", "product", "character", "photography"]


class TrainingParams(BaseModel):
    """What a customer may set. Unknown names are refused, so nothing is set in vain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=32, ge=1, le=256)
    # ΔW is scaled by alpha / rank.
    alpha: float = Field(default=16.0, gt=0, le=1024)
    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    epochs: int = Field(default=10, ge=1, le=1000)
    batch_size: int = Field(default=2, ge=1, le=64)
    gradient_accumulation: int = Field(default=1, ge=1, le=64)
    # Side in pixels of the square whose area the buckets share.
    resolution: int = Field(default=1024, ge=32, le=2048, multiple_of=8)
    # How often an epoch shows each image, unless the image says otherwise.
    num_repeats: int = Field(default=10, ge=1, le=1000)
    # Ends training early; None means epochs alone decide.
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000)
    save_every_n_epochs: int = Field(default=2, ge=1, le=1000)
    mixed_precision: Literal["auto", "fp16", "bf16", "no"] = "auto"
    shuffle_caption: bool = True
    # Comma-separated tokens at the front that shuffling leaves in place.
    keep_tokens: int = Field(default=1, ge=0, le=75)
    caption_dropout_rate: float = Field(default=0.05, ge=0, le=1)
    optimizer: Literal["adamw"] = "adamw"
    lr_scheduler: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"] = (
        "cosine"
    )
    lr_warmup_steps: int = Field(default=0, ge=0, le=100_000)
    # Ceiling on the signal-to-noise ratio's weight; None leaves losses unweighted.
    min_snr_gamma: float | None = Field(default=5.0, gt=0, le=100)
    noise_offset: float = Field(default=0.0, ge=0, le=1)
    target: Literal["attention", "full"] = "attention"
    variant: Literal["lora"] = "lora"
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    max_grad_norm: float = Field(default=1.0, ge=0, le=1000)
    flip_augment: bool = False
    # Share of the images held out to measure validation loss; at least one image when > 0.
    validation_fraction: float = Field(default=0.1, ge=0, le=0.5)
    # None lets the service draw one; the frozen spec always holds a number.
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)

    @model_validator(mode="after")
    def _warmup_fits(self) -> "TrainingParams":
        if self.max_steps is not None and self.lr_warmup_steps >= self.max_steps:
            raise ValueError(
                f"lr_warmup_steps is {self.lr_warmup_steps}; it must be below max_steps "
                f"({self.max_steps})"
            )
        return self
