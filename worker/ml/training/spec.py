"""The frozen spec: everything that decides what a training makes, in one JSON file."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.trainings.arithmetic import ImageSize
from app.trainings.params import TrainingParams
from worker.ml.training.errors import SpecInvalid


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelSpec(_Frozen):
    """Where the base model is and what it was made for."""

    id: str
    # A folder or a hub id.
    location: str
    revision: str | None = None
    architecture: str
    native_resolution: int = Field(ge=32, le=4096)
    vae_scale_factor: int = Field(default=8, ge=1, le=64)


class ImageSpec(_Frozen):
    """One picture; sizes are those after EXIF orientation."""

    # Relative to the spec's folder, or absolute.
    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    caption: str
    repeats: int | None = Field(default=None, ge=1)

    @property
    def size(self) -> ImageSize:
        """What the arithmetic of buckets needs."""
        return ImageSize(self.width, self.height, self.repeats, self.sha256)


class TrainingSpec(_Frozen):
    """See the fields; `params.seed` must be set."""

    format: Literal["lorawright.training/1"]
    name: str
    trigger_word: str | None = None
    params: TrainingParams
    base_model: BaseModelSpec
    images: Annotated[list[ImageSpec], Field(min_length=1)]
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

    @property
    def seed(self) -> int:
        """`params.seed`, known to be set."""
        assert self.params.seed is not None, "checked when the spec was read"
        return self.params.seed


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
    images = [image.model_copy(update={"path": str(folder / image.path)}) for image in spec.images]
    return spec.model_copy(update={"images": images})
