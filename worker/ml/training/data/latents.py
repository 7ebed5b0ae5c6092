"""Pictures as latents: each variant encoded once, in batches of its bucket, and kept on disk.

Variants are crops, mirrored or not, and samples of the VAE's posterior. What chance there is in
them comes from the picture's hash, not from the run's seed, so that trainings share them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from app.trainings.params import TrainingParams
from worker.ml.training.data.cache import TensorCache, cache_key
from worker.ml.training.data.images import Picture, load_image, load_mask, to_pixels
from worker.ml.training.errors import ImageBroken, LatentsNotFinite
from worker.ml.training.parallel import Group
from worker.ml.training.sampling import choices_for, generator_for
from worker.ml.training.spec import ImageSpec

# Of one pass of the VAE, all variants counted.
ENCODE_PIXELS = 4 * 1024 * 1024
CENTRE = (0.5, 0.5)


@dataclass(frozen=True)
class Wanted:
    """How one picture is to be prepared.

    Attributes:
        image: which picture.
        bucket: (width, height) in pixels.
        places: of its crops in what is left over, across and down, 0..1.
        flip: whether each crop is there mirrored too.
        samples: of the posterior; 0 takes its mean.
        background: what shows through, `#rrggbb`.
        alpha_mask: whether its transparency weighs the loss.
    """

    image: ImageSpec
    bucket: tuple[int, int]
    places: tuple[tuple[float, float], ...]
    flip: bool
    samples: int
    background: str
    alpha_mask: bool

    @classmethod
    def of(cls, image: ImageSpec, bucket: tuple[int, int], params: TrainingParams) -> "Wanted":
        """From the image's own options, or else the run's."""
        crop = params.random_crop if image.random_crop is None else image.random_crop
        flip = params.flip_augment if image.flip_augment is None else image.flip_augment
        mask = params.alpha_mask if image.alpha_mask is None else image.alpha_mask
        places: tuple[tuple[float, float], ...] = (CENTRE,)
        if crop:
            # By the picture alone: the first so many are the same whoever asks for more.
            seed = int(image.sha256[:15], 16)
            places = tuple(
                (across, down)
                for number in range(params.crop_variants)
                for across, down in [choices_for(2, "crop", seed, number)]
            )
        return cls(image, bucket, places, flip, params.latent_samples, params.background, mask)

    @property
    def crops(self) -> int:
        """How many pictures the VAE sees of it."""
        return len(self.places) * (1 + self.flip)

    def key(self, vae_sha256: str) -> str:
        """Of all that decides its latents."""
        return cache_key(
            "latents",
            vae_sha256,
            self.image.sha256,
            self.image.mask_sha256,
            list(self.bucket),
            [list(place) for place in self.places],
            self.flip,
            self.samples,
            self.background,
            self.alpha_mask,
        )


@dataclass(frozen=True)
class LatentImage:
    """One picture, ready for the UNet.

    Attributes:
        variants: (V, 4, h, w), float32, scaled by the VAE's factor.
        time_ids: SDXL's six numbers of each variant, (V, 6), int64.
        masks: what the loss counts where, (V, 1, h, w), 0..1; None: 1 everywhere.
    """

    variants: Tensor
    time_ids: Tensor
    masks: Tensor | None

    def to(self, device: torch.device | None) -> "LatentImage":
        """The same on another device; None leaves it where it is."""
        if device is None:
            return self
        masks = None if self.masks is None else self.masks.to(device)
        return LatentImage(self.variants.to(device), self.time_ids.to(device), masks)


class LatentStore:
    """Every picture's latents by number, from the cache's disk, the host or the device."""

    def __init__(self, cache: TensorCache, keys: Sequence[str], device: torch.device | None):
        """`device` None reads from the disk each time."""
        self._cache = cache
        self._keys = keys
        every = range(0 if device is None else len(keys))
        self._kept = {number: self._read(number).to(device) for number in every}

    def __getitem__(self, number: int) -> LatentImage:
        kept = self._kept.get(number)
        return self._read(number) if kept is None else kept

    def __len__(self) -> int:
        return len(self._keys)

    def _read(self, number: int) -> LatentImage:
        found = self._cache.get(self._keys[number])
        if found is None:
            raise OSError(f"latents {self._keys[number]} are gone from the cache, or damaged")
        return LatentImage(found["latents"], found["time_ids"], found.get("masks"))


def encode_images(
    wanted: Sequence[Wanted],
    *,
    vae: Callable[[], Any],
    vae_sha256: str,
    cache: TensorCache,
    group: Group,
    on_done: Callable[[int], None],
) -> list[str]:
    """See that each picture's latents are in the cache; their keys there.

    Processes of a group share the work. While a batch is encoded the next one is decoded, so two
    batches of pixels are in memory at most.

    Args:
        vae: loads the VAE; called only if something must be encoded.
        vae_sha256: of its weights, part of the cache's keys.
        on_done: told how many pictures are done.

    Raises:
        ImageBroken, LatentsNotFinite: naming the picture.
    """
    keys = [each.key(vae_sha256) for each in wanted]
    work = _Work(wanted, keys, vae, cache, on_done)
    # Batches are made before anything is left out: a picture's last bits depend on its batch mates,
    # and a run that was stopped in here must go on to the same ones. They are parted before, too:
    # processes that look at the folder at different times must agree on who makes what.
    batches = _batches(wanted)
    mine = batches[group.rank :: group.size]
    work.encode([batch for batch in mine if work.lacks(batch)])
    group.wait()
    # On machines that share no folder, what the others made is made here as well.
    work.encode([batch for batch in batches if work.lacks(batch)])
    on_done(len(keys))
    return keys


def _batches(wanted: Sequence[Wanted]) -> list[list[int]]:
    """Pictures of one bucket and as many crops, as many as one pass of the VAE takes."""
    alike: dict[tuple[tuple[int, int], int], list[int]] = {}
    for number, each in enumerate(wanted):
        alike.setdefault((each.bucket, each.crops), []).append(number)
    found: list[list[int]] = []
    for ((width, height), crops), members in sorted(alike.items()):
        size = max(1, ENCODE_PIXELS // (width * height * crops))
        found += [members[start : start + size] for start in range(0, len(members), size)]
    return found


@dataclass(frozen=True)
class _Work:
    wanted: Sequence[Wanted]
    keys: Sequence[str]
    vae: Callable[[], Any]
    cache: TensorCache
    on_done: Callable[[int], None]

    def lacks(self, numbers: Sequence[int]) -> bool:
        return not all(self.cache.has(self.keys[number]) for number in numbers)

    def encode(self, batches: Sequence[Sequence[int]]) -> None:
        done = len(self.keys) - sum(len(numbers) for numbers in batches)
        self.on_done(done)
        if not batches:
            return
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = pool.submit(self._decode, batches[0])
            for following, numbers in enumerate(batches, start=1):
                # The future would hold on to the batch.
                pixels, ahead = ahead.result(), None  # type: ignore[assignment]
                if following < len(batches):
                    ahead = pool.submit(self._decode, batches[following])
                self._encode(numbers, pixels)
                del pixels
                done += len(numbers)
                self.on_done(done)

    def _decode(self, numbers: Sequence[int]) -> "_Pixels":
        first = self.wanted[numbers[0]]
        width, height = first.bucket
        # One block from the start: stacked afterwards, the batch would be there twice.
        batch = torch.empty(len(numbers) * first.crops, 3, height, width)
        framings = [
            _fill(batch[place * first.crops :][: first.crops], self.wanted[number])
            for place, number in enumerate(numbers)
        ]
        return _Pixels(batch, framings)

    def _encode(self, numbers: Sequence[int], pixels: "_Pixels") -> None:
        means, spreads = _posterior(self.vae(), pixels.batch)
        crops = self.wanted[numbers[0]].crops
        for place, number in enumerate(numbers):
            part = slice(place * crops, (place + 1) * crops)
            wanted, (masks, time_ids) = self.wanted[number], pixels.framings[place]
            latents = _sampled(means[part], spreads[part], wanted)
            if not torch.isfinite(latents).all():
                raise LatentsNotFinite(
                    f"{Path(wanted.image.path).name} became NaN or infinite in the VAE"
                )
            stored = {"latents": latents, "time_ids": time_ids}
            if masks is not None:
                stored["masks"] = _shrunk(masks, latents)
            self.cache.put(self.keys[number], stored)


@dataclass(frozen=True)
class _Pixels:
    """A batch before the VAE: (N · crops, 3, H, W) in -1..1; masks and time ids by picture."""

    batch: Tensor
    framings: list[tuple[Tensor | None, Tensor]]


def _fill(pixels: Tensor, wanted: Wanted) -> tuple[Tensor | None, Tensor]:
    """Write crops, each followed by its mirror image; masks (crops, 1, H, W), time ids (V, 6)."""
    image = wanted.image
    path = Path(image.path)
    picture = load_image(
        path, image.sha256, background=wanted.background, alpha_mask=wanted.alpha_mask
    )
    if picture.rgb.size != (image.width, image.height):
        found = f"{picture.rgb.width}x{picture.rgb.height}"
        raise ImageBroken(f"{path.name} is {found}; the spec says {image.width}x{image.height}")
    if image.mask_path is not None and image.mask_sha256 is not None:
        mask = load_mask(Path(image.mask_path), image.mask_sha256, picture.rgb.size)
        picture = Picture(picture.rgb, mask)
    masks: list[Tensor] = []
    time_ids: list[tuple[int, ...]] = []
    for place in wanted.places:
        crop, mask_crop, framing = to_pixels(picture, wanted.bucket, place)
        for mirrored in (False, True)[: 1 + wanted.flip]:
            pixels[len(time_ids)] = crop.flip(-1) if mirrored else crop
            if mask_crop is not None:
                masks.append(mask_crop.flip(-1) if mirrored else mask_crop)
            time_ids.append((framing.mirrored if mirrored else framing).time_ids)
    return (
        torch.stack(masks) if masks else None,
        torch.tensor(time_ids).repeat_interleave(max(1, wanted.samples), dim=0),
    )


@torch.no_grad()
def _posterior(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations (N, 4, h, w), float32, on the CPU."""
    posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    factor = vae.config.scaling_factor
    return posterior.mean.float().cpu() * factor, posterior.std.float().cpu() * factor


def _sampled(means: Tensor, spreads: Tensor, wanted: Wanted) -> Tensor:
    """Latents (V, 4, h, w): the means, or of each so many samples."""
    if not wanted.samples:
        # A copy: a part of the batch would keep the whole batch in memory.
        return means.clone()
    means = means.repeat_interleave(wanted.samples, dim=0)
    spreads = spreads.repeat_interleave(wanted.samples, dim=0)
    generator = generator_for(int(wanted.image.sha256[:15], 16), "posterior")
    return means + spreads * torch.randn(means.shape, generator=generator)


def _shrunk(masks: Tensor, latents: Tensor) -> Tensor:
    """Masks at the latents' size, one for each variant."""
    small = interpolate(masks, latents.shape[-2:], mode="area")
    return small.repeat_interleave(len(latents) // len(small), dim=0)
