"""Pictures as latents: each encoded once, in batches of its bucket, and kept on disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.ml.training.cache import TensorCache, cache_key
from worker.ml.training.errors import ImageBroken, LatentsNotFinite
from worker.ml.training.images import Framing, frame, load_image, to_pixels
from worker.ml.training.spec import ImageSpec

ENCODE_PIXELS = 4 * 1024 * 1024


@dataclass(frozen=True)
class LatentImage:
    """One picture, ready for the UNet.

    Attributes:
        variants: latents as drawn and, when mirroring was asked for, mirrored: (V, 4, h, w),
            float32 on the CPU, scaled by the VAE's factor.
        time_ids: SDXL's six numbers, of the picture as drawn.
    """

    variants: Tensor
    time_ids: tuple[int, ...]


def encode_images(
    images: Sequence[ImageSpec],
    buckets: Sequence[tuple[int, int]],
    *,
    flip: bool,
    vae: Callable[[], Any],
    vae_sha256: str,
    cache: TensorCache,
    on_done: Callable[[int], None],
) -> list[LatentImage]:
    """The latents of each picture in its bucket, from the cache where they are there.

    Args:
        buckets: (width, height) of each picture.
        vae: loads the VAE; called only if something must be encoded.
        vae_sha256: of its weights, part of the cache's key.
        on_done: told how many pictures are done.

    Raises:
        ImageBroken, LatentsNotFinite: naming the picture.
    """
    found: dict[int, Tensor] = {}
    missing: dict[tuple[int, int], list[int]] = {}
    keys = [
        cache_key("latents", vae_sha256, image.sha256, list(bucket), flip)
        for image, bucket in zip(images, buckets, strict=True)
    ]
    for number, key in enumerate(keys):
        stored = cache.get(key)
        if stored is not None:
            found[number] = stored["latents"]
        else:
            missing.setdefault(buckets[number], []).append(number)
    on_done(len(found))
    for bucket, numbers in sorted(missing.items()):
        network = vae()
        size = max(1, ENCODE_PIXELS // (bucket[0] * bucket[1] * (2 if flip else 1)))
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            pixels = [_pixels(images[number], bucket) for number in part]
            encoded = _encode(network, pixels, flip)
            for number, latents in zip(part, encoded, strict=True):
                if not torch.isfinite(latents).all():
                    raise LatentsNotFinite(
                        f"{Path(images[number].path).name} became NaN or infinite in the VAE"
                    )
                cache.put(keys[number], {"latents": latents})
                found[number] = latents
            on_done(len(found))
    return [
        LatentImage(found[number], _framing(images[number], buckets[number]).time_ids)
        for number in range(len(images))
    ]


def _pixels(image: ImageSpec, bucket: tuple[int, int]) -> Tensor:
    path = Path(image.path)
    picture = load_image(path, image.sha256)
    if picture.size != (image.width, image.height):
        raise ImageBroken(
            f"{path.name} is {picture.width}x{picture.height}; the spec says "
            f"{image.width}x{image.height}"
        )
    return to_pixels(picture, bucket)[0]


@torch.no_grad()
def _encode(vae: Any, pixels: Sequence[Tensor], flip: bool) -> Tensor:
    """Latents (B, V, 4, h, w): the mean of the posterior, in which no chance takes part."""
    variants = torch.stack(list(pixels)).unsqueeze(1)  # (B, 1, 3, H, W)
    if flip:
        variants = torch.cat([variants, variants.flip(-1)], dim=1)
    count = variants.shape[1]
    flat = variants.flatten(0, 1).to(vae.device, vae.dtype)
    latents = vae.encode(flat).latent_dist.mode() * vae.config.scaling_factor
    return latents.float().cpu().unflatten(0, (-1, count))


def _framing(image: ImageSpec, bucket: tuple[int, int]) -> Framing:
    return frame(image.width, image.height, bucket)[1]
