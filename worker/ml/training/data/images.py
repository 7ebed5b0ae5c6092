"""A picture as the VAE takes it: upright, sRGB, opaque, resized to cover its bucket, cropped."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from worker.ml.training.errors import ImageBroken


@dataclass(frozen=True)
class Framing:
    """How a picture came into its bucket; what SDXL is told as time ids.

    Attributes:
        original: (height, width) of the picture, upright.
        crop: (top, left) of the crop in the resized picture.
        target: (height, width) of the bucket.
        resized_width: of the picture that the crop was taken from.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]
    resized_width: int

    @property
    def time_ids(self) -> tuple[int, ...]:
        """The six numbers in SDXL's order."""
        return (*self.original, *self.crop, *self.target)

    @property
    def mirrored(self) -> "Framing":
        """Where the same crop lies in the mirrored picture."""
        left = self.resized_width - self.target[1] - self.crop[1]
        return replace(self, crop=(self.crop[0], left))


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        rgb: upright, opaque.
        mask: grey of the same size, white where the loss counts; None: it counts everywhere.
    """

    rgb: Image.Image
    mask: Image.Image | None = None


def frame(
    width: int, height: int, bucket: tuple[int, int], place: tuple[float, float] = (0.5, 0.5)
) -> tuple[tuple[int, int], Framing]:
    """The size to resize to, (width, height), and the crop that fills the bucket.

    Args:
        place: of the crop in what resizing leaves over, across and down, 0..1; 0.5 is the centre.
    """
    bucket_width, bucket_height = bucket
    scale = max(bucket_width / width, bucket_height / height)
    resized = (
        max(bucket_width, round(width * scale)),
        max(bucket_height, round(height * scale)),
    )
    crop = (
        int((resized[1] - bucket_height) * place[1]),
        int((resized[0] - bucket_width) * place[0]),
    )
    return resized, Framing((height, width), crop, (bucket_height, bucket_width), resized[0])


def load_image(
    path: Path, sha256: str, *, background: str = "#ffffff", alpha_mask: bool = False
) -> Picture:
    """Decode a file: turned as EXIF says, its colours in sRGB, transparent parts on a background.

    Args:
        background: `#rrggbb`.
        alpha_mask: whether transparency becomes the mask.

    Raises:
        ImageBroken: it is not the file of that hash, or does not decode; the message names it.
    """
    with _decoded(path, sha256) as opened:
        upright = _in_srgb(ImageOps.exif_transpose(opened)).convert("RGBA")
    flat = Image.new("RGBA", upright.size, background)
    flat.alpha_composite(upright)
    return Picture(flat.convert("RGB"), upright.getchannel("A") if alpha_mask else None)


def load_mask(path: Path, sha256: str, size: tuple[int, int]) -> Image.Image:
    """A grey mask, brought to a picture's size.

    Raises:
        ImageBroken: as for `load_image`.
    """
    with _decoded(path, sha256) as opened:
        grey = ImageOps.exif_transpose(opened).convert("L")
    return grey if grey.size == size else grey.resize(size, Image.Resampling.BILINEAR)


@contextmanager
def _decoded(path: Path, sha256: str) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            # Size limits are the service's, checked at upload.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            data = path.read_bytes()
            # What is made of it is kept under this hash, for other trainings too.
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ImageBroken(f"{path.name} has another sha256 than the spec says")
            with Image.open(BytesIO(data)) as opened:
                yield opened
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageBroken(f"{path.name} does not decode: {error}") from error


def _in_srgb(image: Image.Image) -> Image.Image:
    """Colours of another profile brought to sRGB, which the base models were trained on."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    if "transparency" in image.info:
        image = image.convert("RGBA")
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    # LittleCMS takes no alpha and no palette.
    mode = image.mode if image.mode in ("RGB", "L", "CMYK") else "RGB"
    try:
        converted = ImageCms.profileToProfile(
            image.convert(mode),
            ImageCms.ImageCmsProfile(BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        # A broken profile, or one for another kind of picture, as programs do write: its numbers
        # are taken as sRGB, as other programs show them.
        return image
    assert converted is not None, "only a conversion in place returns nothing"
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def to_pixels(
    picture: Picture, bucket: tuple[int, int], place: tuple[float, float] = (0.5, 0.5)
) -> tuple[Tensor, Tensor | None, Framing]:
    """Pixels (3, H, W) in -1..1, mask (1, H, W) in 0..1, framing; the bucket is (width, height)."""
    resized, framing = frame(picture.rgb.width, picture.rgb.height, bucket, place)
    top, left = framing.crop
    box = (left, top, left + bucket[0], top + bucket[1])
    array = np.asarray(picture.rgb.resize(resized, Image.Resampling.LANCZOS).crop(box))
    pixels = torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 127.5 - 1.0
    if picture.mask is None:
        return pixels, None, framing
    grey = np.asarray(picture.mask.resize(resized, Image.Resampling.BILINEAR).crop(box))
    return pixels, torch.from_numpy(grey.copy()).unsqueeze(0).float() / 255, framing
