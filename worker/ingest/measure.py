"""What is worth knowing of a picture before paying for a GPU, and its thumbnail."""

import io
import warnings
from pathlib import Path
from typing import Any

import dhash
import numpy as np
from PIL import Image, ImageOps

THUMBNAIL_SIDE_PX = 256
# Sharpness is measured at this size, so that it does not depend on the resolution.
SHARPNESS_SIDE_PX = 512
HASH_SIDE = 8
TILE_PX = 256
# Share of a tile's contrast in its finest octave: about 0.3 in drawings at their own size, 0.07 to
# 0.09 in the same enlarged to twice their size, 0.03 to four times. Twice may pass, four never.
ENLARGED_BELOW = 0.06
# Contrast of a tile, in 0..255, under which there is nothing to measure.
FLAT_BELOW = 4.0


def measure(path: Path) -> dict[str, Any]:
    """Measure a picture that is known to decode.

    Returns:
        `transparent`: whether any pixel is not opaque; `brightness`: mean luminance, 0..1;
        `sharpness`: variance of the Laplacian of the luminance in 0..255, about 100 for a
        photograph in focus, under 20 when blurred (Pech-Pacheco et al. 2000); `detail`: the part
        of its width and height that its finest details need, 1, 0.5 or 0.25; `dhash`: its
        difference hash, 128 bits in hex; `oriented`: whether EXIF turned it; `problems`: what the
        decoder complained of.
    """
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        with Image.open(path) as opened:
            oriented = opened.getexif().get(0x0112, 1) != 1
            upright = ImageOps.exif_transpose(opened)
            transparent = _has_transparency(upright)
            # On white, as a person would see it.
            grey = _on_white(upright).convert("L") if transparent else upright.convert("L")
    detail = _detail(grey)
    fingerprint = _difference_hash(grey)
    grey.thumbnail((SHARPNESS_SIDE_PX, SHARPNESS_SIDE_PX))
    luminance = np.asarray(grey, dtype=np.float32)  # (H, W), 0..255
    return {
        "transparent": transparent,
        "brightness": round(float(luminance.mean()) / 255, 4),
        "sharpness": round(_laplacian_variance(luminance), 2),
        "detail": detail,
        "dhash": fingerprint,
        "oriented": oriented,
        "problems": sorted({str(complaint.message)[:200] for complaint in complaints}),
    }


def thumbnail(path: Path) -> bytes:
    """A WebP of at most 256 px a side, upright, transparent parts on white."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGBA")
    image.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX))
    buffer = io.BytesIO()
    _on_white(image).save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def _on_white(image: Image.Image) -> Image.Image:
    layered = image.convert("RGBA")
    flat = Image.new("RGB", layered.size, "white")
    flat.paste(layered, mask=layered.getchannel("A"))
    return flat


def _difference_hash(grey: Image.Image) -> str:
    """Whether each of 8 × 8 places is darker than its neighbour to the right, and below."""
    side = HASH_SIDE + 1
    places = grey.resize((side, side), Image.Resampling.LANCZOS)
    return f"{dhash.dhash_int(list(places.tobytes()), HASH_SIDE):032x}"


def _detail(grey: Image.Image) -> float:
    """The smallest of 1, 0.5, 0.25 to which a picture can shrink without losing anything.

    Shrinking by half and back loses the finest octave of the spectrum, the lowest level of a
    Laplacian pyramid (Burt and Adelson 1983). A photograph has some of its contrast there, one
    that was enlarged almost none. The sharpest of a grid of tiles counts: a blurred background is
    no fault.
    """
    part = 1.0
    while part > 0.25:
        if _lost_by_half(grey) >= ENLARGED_BELOW:
            break
        part /= 2
        grey = grey.resize(
            (max(1, grey.width // 2), max(1, grey.height // 2)), Image.Resampling.BOX
        )
    return part


def _lost_by_half(grey: Image.Image) -> float:
    """Of the sharpest tile, the root mean square of the finest octave over its contrast; 0..1."""
    most = 0.0
    told = False
    tile = min(TILE_PX, grey.width // 2 * 2, grey.height // 2 * 2)
    if tile < 16:
        return 1.0
    for left in _places(grey.width, tile):
        for top in _places(grey.height, tile):
            piece = grey.crop((left, top, left + tile, top + tile))
            pixels = np.asarray(piece, dtype=np.float32)  # (tile, tile), 0..255
            contrast = float(pixels.std())
            if contrast < FLAT_BELOW:
                continue
            told = True
            half = piece.resize((tile // 2, tile // 2), Image.Resampling.LANCZOS)
            back = np.asarray(half.resize((tile, tile), Image.Resampling.LANCZOS), dtype=np.float32)
            most = max(most, float(np.sqrt(np.mean((pixels - back) ** 2))) / contrast)
    # Nothing can be said of a picture without contrast.
    return most if told else 1.0


def _places(length: int, tile: int) -> list[int]:
    """Where up to five tiles begin, evenly from one end to the other."""
    count = min(5, max(1, length // tile))
    if count == 1:
        return [(length - tile) // 2]
    return [round(place * (length - tile) / (count - 1)) for place in range(count)]


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
