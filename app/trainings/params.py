"""Every training parameter, its default (the `style` preset on SDXL) and its range.

The wire, the frozen spec and the trainer share this one definition. It imports nothing but
pydantic, so that the trainer can run from a shell with no service anywhere.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

Task = Literal["style", "product", "character", "photography"]
Optimizer = Literal["adamw", "adamw8bit", "adafactor", "prodigy", "lion", "adamw_schedulefree"]
LrScheduler = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "rex"]


class _Strict(BaseModel):
    """Unknown names are refused, so nothing is set in vain."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BlockParams(_Strict):
    """What differs for a part of the networks; a later block's values go over an earlier one's."""

    # Start of the modules' paths, e.g. `unet.down_blocks.2`, `unet.mid_block`, `text_encoder`.
    match: str = Field(pattern=r"^(unet|text_encoder|text_encoder_2)(\.[A-Za-z0-9_]+)*$")
    # 0 leaves the modules out.
    rank: int | None = Field(default=None, ge=0, le=256)
    alpha: float | None = Field(default=None, gt=0, le=1024)
    learning_rate: float | None = Field(default=None, gt=0, le=1)


class PriorPreservation(_Strict):
    """Pictures of the same class that are none of the subject keep the class as the base knows it.

    Ruiz et al. 2022 (DreamBooth): an epoch shows as many of them as of the subject.
    """

    # The dataset of class pictures; a spec for the shell marks its images instead.
    dataset: str | None = Field(default=None, max_length=60)
    # What their loss counts, against the subject's 1.
    weight: float = Field(default=1.0, gt=0, le=10)


def _without_defaults(schema: dict[str, Any]) -> None:
    """Leave the style preset's values out of the schema.

    What a request leaves out comes from its own preset, while clients that are generated from the
    schema send every default that it tells.
    """
    for told in schema["properties"].values():
        told.pop("default", None)


class TrainingParams(_Strict):
    """What a customer may set; what is left out is as in the preset."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    # --- the adapter
    variant: Literal["lora", "dora", "loha", "lokr"] = "lora"
    rank: int = Field(default=32, ge=1, le=256)
    # ΔW is scaled by alpha / rank.
    alpha: float = Field(default=16.0, gt=0, le=1024)
    # Scale by alpha / √rank instead (Kalajdzievski 2023).
    rank_stabilized: StrictBool = False
    # attention: q, k, v, out; full: feed-forward and projections too; conv: convolutions as well.
    target: Literal["attention", "full", "conv"] = "attention"
    # Of 3×3 convolutions under `target: conv`; None: rank and alpha.
    conv_rank: int | None = Field(default=None, ge=1, le=256)
    conv_alpha: float | None = Field(default=None, gt=0, le=1024)
    # How LoKr splits the sides of a weight; -1: as near to square as it goes.
    lokr_factor: int = Field(default=-1, ge=-1, le=64)
    blocks: tuple[BlockParams, ...] = Field(default=(), max_length=64)
    train_text_encoder: StrictBool = False
    # Trains this many new token vectors for the trigger word; 0: none (Gal et al. 2022).
    trigger_vectors: int = Field(default=0, ge=0, le=16)
    # Ceiling on each module's ‖ΔW‖, which is scaled back to it after a step; None: no ceiling.
    max_norm: float | None = Field(default=None, gt=0, le=1000)
    # Chances that a low-rank neuron, a rank, or a whole module sits a pass out.
    neuron_dropout: float = Field(default=0.0, ge=0, lt=1)
    rank_dropout: float = Field(default=0.0, ge=0, lt=1)
    module_dropout: float = Field(default=0.0, ge=0, lt=1)
    # Keeps a running average of the weights, which is what is measured and saved; None: none.
    ema_decay: float | None = Field(default=None, gt=0, lt=1)

    # --- how long, how fast
    optimizer: Optimizer = "adamw"
    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    text_encoder_learning_rate: float = Field(default=5e-5, gt=0, le=1)
    trigger_learning_rate: float = Field(default=1e-3, gt=0, le=1)
    # Rate of the up matrices over that of the down matrices (Hayou et al. 2024).
    lora_plus_ratio: float = Field(default=1.0, ge=1, le=64)
    lr_scheduler: LrScheduler = "cosine"
    lr_warmup_steps: int = Field(default=0, ge=0, le=100_000)
    # Restarts of `cosine_with_restarts`, and the exponent of `polynomial`.
    lr_cycles: int = Field(default=1, ge=1, le=100)
    lr_power: float = Field(default=1.0, gt=0, le=10)
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    max_grad_norm: float = Field(default=1.0, ge=0, le=1000)
    epochs: int = Field(default=10, ge=1, le=1000)
    # Ends training early; None means epochs alone decide.
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000)
    # Pictures a device sees at once.
    batch_size: int = Field(default=2, ge=1, le=64)
    gradient_accumulation: int = Field(default=1, ge=1, le=64)
    # How often an epoch shows each image, unless the image says otherwise.
    num_repeats: int = Field(default=10, ge=1, le=1000)

    # --- pictures
    # Side in pixels of the square whose area the buckets share.
    resolution: int = Field(default=1024, ge=32, le=2048, multiple_of=8)
    # Shortest and longest side of a bucket and their step; None: as the base model needs them.
    min_bucket_px: int | None = Field(default=None, ge=32, le=4096)
    max_bucket_px: int | None = Field(default=None, ge=32, le=4096)
    bucket_step_px: int | None = Field(default=None, ge=8, le=256)
    # Never enlarge a picture: smaller ones get smaller buckets.
    no_upscale: StrictBool = False
    flip_augment: StrictBool = False
    # Crops that fill a bucket from a chosen place instead of the centre; how many are prepared.
    random_crop: StrictBool = False
    crop_variants: int = Field(default=4, ge=1, le=32)
    # Samples of the VAE's posterior that are prepared; 0: its mean.
    latent_samples: int = Field(default=0, ge=0, le=16)
    # What shows through transparent pictures.
    background: str = Field(default="#ffffff", pattern=r"^#[0-9a-fA-F]{6}$")
    # Weigh the loss by each picture's transparency; masks of the images' own do so in any case.
    alpha_mask: StrictBool = False
    prior_preservation: PriorPreservation | None = None

    # --- captions
    shuffle_caption: StrictBool = True
    # Orders of each caption that are prepared.
    caption_variants: int = Field(default=4, ge=1, le=64)
    # Comma-separated tokens at the front that shuffling and dropout leave in place.
    keep_tokens: int = Field(default=1, ge=0, le=75)
    # What stands before it stays in front, and what follows a second one stays behind.
    keep_tokens_separator: str | None = Field(default=None, min_length=1, max_length=8)
    caption_prefix: str = Field(default="", max_length=500)
    caption_suffix: str = Field(default="", max_length=500)
    caption_dropout_rate: float = Field(default=0.05, ge=0, le=1)
    # Every so many epochs no caption is shown at all; 0: never.
    caption_dropout_every_n_epochs: int = Field(default=0, ge=0, le=1000)
    tag_dropout_rate: float = Field(default=0.0, ge=0, lt=1)
    # `{red|blue}` becomes one of its parts, and a caption of several lines one of its lines.
    wildcards: StrictBool = False

    # --- the objective
    loss: Literal["l2", "huber", "smooth_l1"] = "l2"
    # Where huber and smooth_l1 turn from squares to straight lines.
    huber_delta: float = Field(default=0.1, gt=0, le=10)
    # Ceiling on the signal-to-noise ratio's weight; None leaves losses unweighted.
    min_snr_gamma: float | None = Field(default=5.0, gt=0, le=100)
    # Weigh by 1 / √SNR instead of min-SNR.
    debiased_estimation: StrictBool = False
    # auto: what the base model says of itself.
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    zero_terminal_snr: StrictBool = False
    noise_offset: float = Field(default=0.0, ge=0, le=1)
    # Octaves of coarser noise that are added, and how much less each next one counts.
    multires_noise_iterations: int = Field(default=0, ge=0, le=10)
    multires_noise_discount: float = Field(default=0.3, gt=0, le=1)
    # Noise on the noise that the network sees, not on what it should find (Ning et al. 2023).
    input_perturbation: float = Field(default=0.0, ge=0, le=1)
    # Timesteps are drawn from min_timestep (kept) to max_timestep (left out); None: to the end.
    min_timestep: int = Field(default=0, ge=0, le=999)
    max_timestep: int | None = Field(default=None, ge=1, le=1000)
    # Above 0 more of the noisy timesteps, which decide composition; below 0 more of the clean.
    timestep_bias: float = Field(default=0.0, ge=-3, le=3)

    # --- the device
    mixed_precision: Literal["auto", "fp16", "bf16", "no"] = "auto"
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    # How the frozen weights are kept: in the precision of the arithmetic, or quantised.
    base_storage: Literal["auto", "full", "fp8", "int8"] = "auto"
    # Where latents and embeddings wait: the device's memory, the host's, or the disk.
    cache_placement: Literal["auto", "device", "host", "disk"] = "auto"

    # --- watching
    save_every_n_epochs: int = Field(default=2, ge=1, le=1000)
    # Share of the images held out to measure validation loss; at least one image when > 0.
    validation_fraction: float = Field(default=0.1, ge=0, le=0.5)
    # Ends when so many checkpoints in a row were no better than the best; None: never.
    early_stop_checkpoints: int | None = Field(default=None, ge=1, le=100)
    # None lets the service draw one; the frozen spec always holds a number.
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainingParams":
        if self.max_steps is not None and self.lr_warmup_steps >= self.max_steps:
            raise ValueError(
                f"lr_warmup_steps is {self.lr_warmup_steps}; it must be below max_steps "
                f"({self.max_steps})"
            )
        if self.max_timestep is not None and self.min_timestep >= self.max_timestep:
            raise ValueError(
                f"min_timestep is {self.min_timestep}; it must be below max_timestep "
                f"({self.max_timestep})"
            )
        if self.variant in ("loha", "lokr") and (self.neuron_dropout or self.rank_dropout):
            raise ValueError(
                f"neuron_dropout and rank_dropout need a LoRA or DoRA; variant is {self.variant}"
            )
        smallest, largest = self.min_bucket_px or 32, self.max_bucket_px or 4096
        if smallest > largest:
            raise ValueError(f"min_bucket_px is {smallest}; max_bucket_px is {largest}, below it")
        return self
