"""How far pictures are from a style, by statistics that a person would name.

Chroma (how colourful), the share of nearly black pixels (ink), and the strength of edges. Each is
measured in units of its own spread over the unchanged base's pictures, so none outweighs another.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

NEAR_BLACK = 0.2
SIDE = 64


def features(image: Image.Image) -> np.ndarray:
    """(3,): mean chroma, share near black, mean gradient of the luminance; all within 0..1."""
    rgb = np.asarray(image.convert("RGB").resize((SIDE, SIDE)), dtype=np.float64) / 255
    chroma = rgb.max(axis=2) - rgb.min(axis=2)
    luminance = rgb @ np.array([0.2126, 0.7152, 0.0722])
    down, right = np.gradient(luminance)
    return np.array([chroma.mean(), (luminance < NEAR_BLACK).mean(), np.hypot(down, right).mean()])


def mean_features(images: Sequence[Image.Image]) -> np.ndarray:
    """(3,): the mean over pictures."""
    return np.mean([features(image) for image in images], axis=0)


def spread(images: Sequence[Image.Image]) -> np.ndarray:
    """(3,): standard deviation over pictures."""
    return np.std([features(image) for image in images], axis=0)


def distance(found: np.ndarray, style: np.ndarray, unit: np.ndarray) -> float:
    """Root mean square of the differences, in units of `unit`."""
    return float(np.sqrt(np.mean(((found - style) / unit) ** 2)))
