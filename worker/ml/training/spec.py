"""The frozen spec: everything that decides what a training makes, in one JSON file."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.trainings.arithmetic import ImageSize
from app.trainings.params import TrainingParams
from worker.ml.base_models.variant_fields import VariantFields
from worker.ml.training.errors import SpecInvalid


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelSpec(_Frozen, VariantFields):
    """Where the base model is and what it was made for."""

    id: str
    # A folder, a hub id, or a single safetensors file.
    location: str
    revision: str | None = None
    architecture: str
    native_resolution: int = Field(ge=32, le=4096)
    vae_scale_factor: int = Field(default=8, ge=1, le=64)


class CaptionOptions(_Frozen):
    """How a caption becomes what is shown; the fields are those of `TrainingParams`."""

    shuffle_caption: bool = False
    keep_tokens: int = Field(default=0, ge=0)
    keep_tokens_separator: str | None = None
    # Between the parts that shuffling moves.
    separator: str = Field(default=",", min_length=1)
    # Parts that it joins move and drop together, and are shown with the separator between them.
    secondary_separator: str | None = None
    caption_prefix: str = ""
    caption_suffix: str = ""
    caption_dropout_rate: float = Field(default=0.0, ge=0, le=1)
    caption_dropout_every_n_epochs: int = Field(default=0, ge=0)
    tag_dropout_rate: float = Field(default=0.0, ge=0, le=1)
    wildcards: bool = False


class ImageSpec(_Frozen):
    """One picture; sizes are those after EXIF orientation."""

    # Relative to the spec's folder, or absolute.
    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    caption: str
    repeats: int | None = Field(default=None, ge=1)
    # A class picture for prior preservation: it is shown, but is none of the subject.
    regularization: bool = False
    # A grey picture, white where the loss counts, of any size; with its own hash.
    mask_path: str | None = None
    mask_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    # None leaves each to the run's parameters.
    captions: CaptionOptions | None = None
    flip_augment: bool | None = None
    random_crop: bool | None = None
    alpha_mask: bool | None = None

    @property
    def size(self) -> ImageSize:
        """What the arithmetic of buckets needs."""
        return ImageSize(self.width, self.height, self.repeats, self.sha256, self.regularization)


class TrainingSpec(_Frozen):
    """See the fields; `params.seed` must be set."""

    format: Literal["lorawright.training/1"]
    name: str
    trigger_word: str | None = None
    params: TrainingParams
    base_model: BaseModelSpec
    images: Annotated[list[ImageSpec], Field(min_length=1)]
    # A LoRA file to go on from; its kind and ranks must be those of the parameters.
    warm_start: str | None = None
    # Beside the kohya file of each checkpoint, the same in these layouts.
    also_layouts: list[Literal["diffusers", "peft"]] = Field(default_factory=list)
    # Shown to base and LoRA alike, to measure how far the LoRA moves what it should leave alone.
    generic_prompts: list[str] = Field(
        default=[
            "a photo of a dog",
            "a portrait of a woman",
            "a landscape with mountains",
            "a bowl of fruit",
        ],
        max_length=16,
    )
    # Drawn at each checkpoint; none: no sample images.
    sample_prompts: list[str] = Field(default_factory=list, max_length=8)
    sample_steps: int = Field(default=20, ge=1, le=150)
    sample_guidance_scale: float = Field(default=7.5, ge=0, le=30)
    # Joins the file's own metadata.
    metadata: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_seed(self) -> "TrainingSpec":
        if self.params.seed is None:
            raise ValueError("params.seed must be set: the spec decides every random choice")
        return self

    @model_validator(mode="after")
    def _layouts_can_say_it(self) -> "TrainingSpec":
        params = self.params
        if not self.also_layouts:
            return self
        names = " and ".join(self.also_layouts)
        if params.variant == "lokr" or (params.variant == "loha" and "diffusers" in names):
            raise ValueError(f"also_layouts: {names} cannot express {params.variant}")
        if params.trigger_vectors:
            raise ValueError(f"also_layouts: {names} cannot hold a trigger word's vectors")
        if "peft" in self.also_layouts and params.train_text_encoder:
            raise ValueError("also_layouts: peft holds one network a file, not text encoders too")
        return self

    @property
    def seed(self) -> int:
        """`params.seed`, known to be set."""
        assert self.params.seed is not None, "checked when the spec was read"
        return self.params.seed


def fingerprint(spec: TrainingSpec) -> str:
    """sha256 of what a spec says, wherever its files lie."""
    said = spec.model_dump_json(
        exclude={
            "images": {"__all__": {"path", "mask_path"}},
            # Its id says which it is; the rest is where that lies here.
            "base_model": {"location", *VariantFields.model_fields},
            "warm_start": True,
        }
    )
    return hashlib.sha256(said.encode()).hexdigest()


def read_spec(path: Path) -> TrainingSpec:
    """Read and check a spec file; image paths become absolute.

    Raises:
        SpecInvalid: it cannot be read, or a value is wrong; the message says where.
    """
    try:
        spec = TrainingSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SpecInvalid(f"{path}: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5]
        )
        raise SpecInvalid(f"{path}: {wrong}") from error
    folder = path.resolve().parent
    images = [
        image.model_copy(
            update={
                "path": str(folder / image.path),
                "mask_path": None if image.mask_path is None else str(folder / image.mask_path),
            }
        )
        for image in spec.images
    ]
    warm_start = None if spec.warm_start is None else str(folder / spec.warm_start)
    return spec.model_copy(update={"images": images, "warm_start": warm_start})
