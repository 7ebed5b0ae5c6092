"""What is worth knowing of a picture before paying for a GPU, and its thumbnail."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

THUMBNAIL_SIDE_PX = 256
# Sharpness is measured at this size, so that it does not depend on the resolution.
SHARPNESS_SIDE_PX = 512


def measure(path: Path) -> dict[str, Any]:
    """Measure a picture that is known to decode.

    Returns:
        `transparent`: whether any pixel is not opaque; `brightness`: mean luminance, 0..1;
        `sharpness`: variance of the Laplacian of the luminance in 0..255, about 100 for a
        photograph in focus, under 20 when blurred (Pech-Pacheco et al. 2000); `oriented`: whether
        EXIF turned it.
    """
    with Image.open(path) as opened:
        oriented = opened.getexif().get(0x0112, 1) != 1
        upright = ImageOps.exif_transpose(opened)
        transparent = _has_transparency(upright)
        grey = upright.convert("L")
    grey.thumbnail((SHARPNESS_SIDE_PX, SHARPNESS_SIDE_PX))
    luminance = np.asarray(grey, dtype=np.float32)  # (H, W), 0..255
    return {
        "transparent": transparent,
        "brightness": round(float(luminance.mean()) / 255, 4),
        "sharpness": round(_laplacian_variance(luminance), 2),
        "oriented": oriented,
    }


def thumbnail(path: Path) -> bytes:
    """A WebP of at most 256 px a side, upright, transparent parts on white."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGBA")
    image.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX))
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    buffer = io.BytesIO()
    flat.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def _has_transparency(image: Image.Image) -> bool:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return False
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return bool(alpha.min() < 255)


def _laplacian_variance(luminance: "np.ndarray[Any, np.dtype[np.float32]]") -> float:
    """Variance of the 4-neighbour Laplacian inside the border; 0 for pictures under 3 px."""
    if min(luminance.shape) < 3:
        return 0.0
    centre = luminance[1:-1, 1:-1]
    laplacian = (
        luminance[:-2, 1:-1] + luminance[2:, 1:-1] + luminance[1:-1, :-2] + luminance[1:-1, 2:]
    ) - 4 * centre
    return float(laplacian.var())
