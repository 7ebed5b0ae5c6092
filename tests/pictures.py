"""Small pictures and archives for tests, made on the spot."""

import io
import zipfile
from collections.abc import Mapping

import numpy as np
from PIL import Image


def picture(seed: int = 0, *, width: int = 64, height: int = 64, format_: str = "PNG") -> bytes:
    """A picture of noise; another seed, another picture."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_)
    return buffer.getvalue()


def archive(members: Mapping[str, bytes]) -> bytes:
    """A zip of these members, deflated, under exactly these names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return buffer.getvalue()
