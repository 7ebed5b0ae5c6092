"""A look at latents that costs next to nothing: a linear map to RGB, fitted to the base's own VAE.

A VAE's latents are close to small pictures in colours of their own. The map is found once for each
base by encoding a chart of soft colours, whose pixels are known, and solving least squares; so it
needs no weights from elsewhere and fits every VAE. See `Preview` for what is shown.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

# Of the chart, in latents; more than enough for fifteen unknowns.
_CHART = 32
_LARGEST_PX = 256


@dataclass(frozen=True)
class LatentColours:
    """RGB = latents · matrix + offset, in [-1, 1].

    Attributes:
        matrix: (4, 3), float32.
        offset: (3,), float32.
    """

    matrix: Tensor
    offset: Tensor

    def picture(self, latents: Tensor) -> Image.Image:
        """A small picture of latents (4, h, w): a pixel for each, at most 256 on a side."""
        values = latents.float().movedim(0, -1) @ self.matrix + self.offset  # (h, w, 3)
        pixels = ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        picture.thumbnail((_LARGEST_PX, _LARGEST_PX))
        return picture


@torch.no_grad()
def fit_colours(vae: nn.Module, device: torch.device, factor: int) -> LatentColours:
    """Find the map of a VAE.

    Args:
        vae: an AutoencoderKL.
        factor: its pixels per latent, each way.
    """
    chart = _chart(_CHART * factor)  # (1, 3, H, W)
    dtype = next(vae.parameters()).dtype
    encoded = vae.encode(chart.to(device, dtype)).latent_dist.mode()  # type: ignore[operator]
    scaling: float = vae.config.scaling_factor  # type: ignore[union-attr, assignment]
    latents = (encoded.float() * scaling).flatten(2)[0].T  # (N, 4)
    colours = avg_pool2d(chart, factor).flatten(2)[0].T.to(latents)  # (N, 3)
    ones = torch.ones_like(latents[:, :1])
    solved = torch.linalg.lstsq(torch.cat([latents, ones], dim=1).cpu(), colours.cpu()).solution
    return LatentColours(solved[:-1].to(device), solved[-1].to(device))


def _chart(side: int) -> Tensor:
    """Soft clouds of colour, (1, 3, side, side) in [-1, 1]; always the same."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(1, 3, side, side)
    for cells in (2, 4, 8, 16):
        clouds = torch.rand(1, 3, cells, cells, generator=generator) * 2 - 1
        total += interpolate(clouds, size=(side, side), mode="bicubic", align_corners=True)
    return (total * 0.7).clamp(-1, 1)
