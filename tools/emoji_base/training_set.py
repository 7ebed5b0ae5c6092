"""The pictures and captions that the UNet is trained on, with honest time ids."""

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from concepts import keywords_of, load_concepts, training_captions
from PIL import Image
from render import BACKGROUNDS, IconSet
from torch import Tensor

SIDE_PX = 64
# Icon set → variants of each concept.
VARIANTS = {"noto": 8, "fluent": 6}
CAPTIONS = 6


class TrainingSet(NamedTuple):
    """Pictures (N, 3, 64, 64) uint8; six captions each; time ids (N, 6) as SDXL orders them:
    original height and width, crop top and left, target height and width, in pixels."""

    pictures: Tensor
    captions: list[list[str]]
    time_ids: Tensor


def draw_variant(icon: Image.Image, draw: random.Random) -> tuple[Image.Image, str, list[int]]:
    """One picture of an icon: its background's name, and time ids that say what was done to it.

    Most are whole; some are cropped from a larger drawing, some enlarged from a smaller one.
    """
    background = "white" if draw.random() < 0.65 else draw.choice(list(BACKGROUNDS)[1:])
    if draw.random() < 0.25:
        icon = icon.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    chance = draw.random()
    original = SIDE_PX
    if chance < 0.15:
        original = draw.randint(72, 88)
    elif chance < 0.25:
        original = draw.randint(24, 40)
    side = round(original * 0.94)
    canvas = Image.new("RGBA", (original, original), (*BACKGROUNDS[background], 255))
    edge = (original - side) // 2
    canvas.alpha_composite(icon.resize((side, side), Image.Resampling.LANCZOS), (edge, edge))
    picture, top, left = canvas.convert("RGB"), 0, 0
    if original > SIDE_PX:
        top, left = draw.randint(0, original - SIDE_PX), draw.randint(0, original - SIDE_PX)
        picture = picture.crop((left, top, left + SIDE_PX, top + SIDE_PX))
    elif original < SIDE_PX:
        picture = picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    return picture, background, [original, original, top, left, SIDE_PX, SIDE_PX]


def draw_training_set(cache: Path, limit: int | None = None, seed: int = 0) -> TrainingSet:
    """Every concept in every variant; the same set for the same seed."""
    draw = random.Random(seed)
    keywords = keywords_of(cache)
    pictures, captions, time_ids = [], [], []
    for style, variants in VARIANTS.items():
        icons = IconSet(cache / style)
        for concept in load_concepts(cache)[:limit]:
            icon = icons.draw(concept, 96)
            for _ in range(variants):
                picture, background, ids = draw_variant(icon, draw)
                pictures.append(np.asarray(picture).transpose(2, 0, 1))
                time_ids.append(ids)
                words = keywords.get(concept, [])
                captions.append(
                    training_captions(concept, words, background, style, draw, CAPTIONS)
                )
    return TrainingSet(
        torch.from_numpy(np.stack(pictures)), captions, torch.tensor(time_ids, dtype=torch.float32)
    )


def to_pixels(pictures: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1, as the VAE takes them."""
    return pictures.float() / 127.5 - 1
