"""Draw icons as pictures: SVG to RGBA tensors, and onto backgrounds with small changes."""

import io
import json
import math
from pathlib import Path

import numpy as np
import resvg_py
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

BACKGROUNDS = {
    "white": (255, 255, 255),
    "blue": (59, 130, 246),
    "light blue": (186, 230, 253),
    "green": (74, 222, 128),
    "yellow": (253, 224, 71),
    "orange": (251, 146, 60),
    "red": (248, 113, 113),
    "pink": (249, 168, 212),
    "purple": (167, 139, 250),
    "gray": (156, 163, 175),
    "brown": (161, 98, 7),
    "black": (17, 17, 17),
}


class IconSet:
    """One icon package, drawn on demand."""

    def __init__(self, folder: Path) -> None:
        pack = json.loads((folder / "icons.json").read_text())
        self._icons: dict[str, dict[str, object]] = pack["icons"]
        self._width = pack.get("width", 16)
        self._height = pack.get("height", 16)

    def __contains__(self, name: str) -> bool:
        return name in self._icons

    def draw(self, name: str, side: int) -> Image.Image:
        """The icon as RGBA of `side` px, filling the canvas."""
        icon = self._icons[name]
        width, height = icon.get("width", self._width), icon.get("height", self._height)
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" '
            'xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        )
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side))
        drawn = Image.open(io.BytesIO(png)).convert("RGBA")
        # Icons that are not square come back smaller; they are centred.
        canvas = Image.new("RGBA", (side, side))
        canvas.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
        return canvas


def draw_all(
    cache: Path, sets: tuple[str, ...], concepts: list[str], side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Every icon of every set that has it.

    Returns:
        pictures (N, 4, side, side) uint8; the concept's number (N,); the set's number (N,).
    """
    pictures, labels, styles = [], [], []
    for style, name in enumerate(sets):
        icons = IconSet(cache / name)
        for label, concept in enumerate(concepts):
            if concept in icons:
                pictures.append(np.asarray(icons.draw(concept, side)).transpose(2, 0, 1))
                labels.append(label)
                styles.append(style)
    return torch.from_numpy(np.stack(pictures)), torch.tensor(labels), torch.tensor(styles)


def background_palette() -> Tensor:
    """The backgrounds' colours, (12, 3) in 0..1, white first."""
    return torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32) / 255


def place(
    rgba: Tensor,
    background: Tensor,
    *,
    scale: Tensor,
    angle: Tensor,
    shift: Tensor,
    mirror: Tensor,
    side: int,
) -> Tensor:
    """Put icons on backgrounds.

    Args:
        rgba: (B, 4, S, S) in 0..1, colours not multiplied by alpha.
        background: (B, 3) in 0..1.
        scale: (B,), share of the canvas that the icon fills.
        angle: (B,), radians.
        shift: (B, 2), in half canvases.
        mirror: (B,), bool.

    Returns:
        Pictures (B, 3, side, side) in 0..1.
    """
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    flip = torch.where(mirror, -1.0, 1.0)
    rows = torch.stack([flip * cos, flip * sin, -sin, cos], dim=1).view(-1, 2, 2)
    moved = -torch.bmm(rows, shift.unsqueeze(2))
    theta = torch.cat([rows, moved], dim=2)  # (B, 2, 3)
    grid = F.affine_grid(theta, [len(rgba), 4, side, side], align_corners=False)
    # Colours are multiplied by alpha while they are mixed, or edges would turn dark.
    packed = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)
    drawn = F.grid_sample(packed, grid, padding_mode="zeros", align_corners=False)
    return drawn[:, :3] + background[:, :, None, None] * (1 - drawn[:, 3:])


def random_placement(
    count: int, generator: torch.Generator, *, largest_angle: float = math.pi / 12
) -> dict[str, Tensor]:
    """Light changes: 75 to 102% of the canvas, 15 degrees, a tenth of a shift, half mirrored."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    return {
        "scale": uniform(0.75, 1.02),
        "angle": uniform(-largest_angle, largest_angle),
        "shift": uniform(-0.1, 0.1, 2),
        "mirror": torch.rand(count, generator=generator) < 0.5,
    }
