"""Pictures in and out: files to latents, latents to pictures, and what a mask keeps."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from worker.ml.inference.errors import InitImageInvalid
from worker.ml.inference.pipelines import PipelineHandle
from worker.ml.inference.spec import GenerationSpec

_LANCZOS = Image.Resampling.LANCZOS


@dataclass(frozen=True)
class Source:
    """What a picture starts from.

    Attributes:
        picture: RGB of the wanted size.
        latents: (1, 4, H/f, W/f), of that picture.
        mask: L of the wanted size, white where it is drawn anew; None: everywhere.
        latent_mask: (1, 1, H/f, W/f), 1 where it is drawn anew; None without a mask.
    """

    picture: Image.Image
    latents: Tensor
    mask: Image.Image | None = None
    latent_mask: Tensor | None = None


def open_source(handle: PipelineHandle, spec: GenerationSpec) -> Source | None:
    """The init image and mask of a spec, ready to be noised; None when it starts from noise.

    Raises:
        InitImageInvalid: one of them cannot be decoded, or the mask is of another shape.
    """
    if spec.init_image is None:
        return None
    size = (spec.width, spec.height)
    original = _open(spec.init_image, "init image")
    picture = ImageOps.fit(_on_white(original), size, _LANCZOS)
    latents = encode_picture(handle, picture)
    if spec.mask_image is None:
        return Source(picture, latents)
    mask = _open(spec.mask_image, "mask")
    if mask.size != original.size:
        raise InitImageInvalid(
            f"the mask has {mask.width}×{mask.height} pixels and the init image "
            f"{original.width}×{original.height}; they must be alike"
        )
    # What is transparent in a mask is not to be drawn anew.
    black = Image.new("RGBA", mask.size, "black")
    black.alpha_composite(mask)
    grey = ImageOps.fit(black.convert("L"), size, _LANCZOS)
    values = torch.from_numpy(np.asarray(grey, dtype=np.float32) / 255)[None, None]
    small = interpolate(values, size=latents.shape[-2:], mode="area").to(latents)
    return Source(picture, latents, grey, small)


@torch.no_grad()
def encode_picture(handle: PipelineHandle, picture: Image.Image) -> Tensor:
    """Latents (1, 4, H/f, W/f) of a picture: the mean, so that no chance enters here."""
    vae = handle.base.vae
    handle.residency.bring("vae")
    pixels = handle.pipeline.image_processor.preprocess(picture)  # (1, 3, H, W) in [-1, 1]
    latents = vae.encode(pixels.to(handle.policy.device, vae.dtype)).latent_dist.mode()
    return (latents * vae.config.scaling_factor).to(handle.policy.dtype)


@torch.no_grad()
def decode_latents(handle: PipelineHandle, latents: Tensor) -> Image.Image:
    """The picture of latents (1, 4, h, w), in the VAE's own precision.

    One at a time: the VAE's activations are the peak of memory, and one picture's pixels must not
    depend on the others'.
    """
    vae = handle.base.vae
    handle.residency.bring("vae")
    scaled = latents.to(handle.policy.device, vae.dtype) / vae.config.scaling_factor
    pixels = vae.decode(scaled, return_dict=False)[0]
    images = handle.pipeline.image_processor.postprocess(pixels.float(), output_type="pil")
    picture: Image.Image = images[0]
    return picture


def kept_outside(picture: Image.Image, source: Source | None) -> Image.Image:
    """The picture with the source's own pixels where its mask is black."""
    if source is None or source.mask is None:
        return picture
    return Image.composite(picture, source.picture, source.mask)


def _open(path: str, what: str) -> Image.Image:
    try:
        with Image.open(Path(path)) as file:
            return ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InitImageInvalid(f"the {what} cannot be decoded") from error


def _on_white(picture: Image.Image) -> Image.Image:
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    return canvas.convert("RGB")
