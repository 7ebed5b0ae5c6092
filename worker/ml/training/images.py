"""A picture as the VAE takes it: upright, opaque, resized to cover its bucket, cropped."""

import hashlib
import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from worker.ml.training.errors import ImageBroken


@dataclass(frozen=True)
class Framing:
    """How a picture came into its bucket; what SDXL is told as time ids.

    Attributes:
        original: (height, width) of the picture, upright.
        crop: (top, left) of the crop in the resized picture.
        target: (height, width) of the bucket.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]

    @property
    def time_ids(self) -> tuple[int, ...]:
        """The six numbers in SDXL's order."""
        return (*self.original, *self.crop, *self.target)


def frame(width: int, height: int, bucket: tuple[int, int]) -> tuple[tuple[int, int], Framing]:
    """The size to resize to, (width, height), and the centre crop that fills the bucket."""
    bucket_width, bucket_height = bucket
    scale = max(bucket_width / width, bucket_height / height)
    resized = (
        max(bucket_width, round(width * scale)),
        max(bucket_height, round(height * scale)),
    )
    crop = ((resized[1] - bucket_height) // 2, (resized[0] - bucket_width) // 2)
    return resized, Framing((height, width), crop, (bucket_height, bucket_width))


def load_image(path: Path, sha256: str) -> Image.Image:
    """RGB, turned as EXIF says, transparent parts on white.

    Raises:
        ImageBroken: it is not the file of that hash, or does not decode; the message names it.
    """
    try:
        with warnings.catch_warnings():
            # Size limits are the service's, checked at upload.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            data = path.read_bytes()
            # What is made of it is kept under this hash, for other trainings too.
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ImageBroken(f"{path.name} has another sha256 than the spec says")
            with Image.open(BytesIO(data)) as opened:
                upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageBroken(f"{path.name} does not decode: {error}") from error
    flat = Image.new("RGBA", upright.size, "white")
    flat.alpha_composite(upright)
    return flat.convert("RGB")


def to_pixels(image: Image.Image, bucket: tuple[int, int]) -> tuple[Tensor, Framing]:
    """Pixels (3, H, W) in -1..1 for a bucket given as (width, height), and their framing."""
    resized, framing = frame(image.width, image.height, bucket)
    top, left = framing.crop
    # Lanczos filters when it shrinks as well, so large pictures do not turn to moiré.
    cropped = image.resize(resized, Image.Resampling.LANCZOS).crop(
        (left, top, left + bucket[0], top + bucket[1])
    )
    pixels = torch.from_numpy(np.array(cropped)).permute(2, 0, 1).float()
    return pixels / 127.5 - 1, framing
