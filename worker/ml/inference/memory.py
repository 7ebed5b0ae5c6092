"""What drawing will hold on the device, and what is given up so that it fits.

First time is given up: the text encoders wait in host memory while the UNet draws, then each
network waits there while another works. Neither changes a bit of a picture. Only then is the VAE
told to decode in tiles, whose seams it blends. What a network makes on its way was counted on the
meta device (`bench/inference_memory.py`): it is linear in rows and pixels, to 1 % for SDXL.
"""

from dataclasses import dataclass, replace
from typing import Literal

MIB = 1024**2
GIB = 1024**3

# resident: all on the device at all times. encoders_parked: the text encoders only while they read
# a prompt. one_at_a_time: whichever network works, both text encoders counting as one.
Placement = Literal["resident", "encoders_parked", "one_at_a_time"]
PLACEMENTS: tuple[Placement, ...] = ("resident", "encoders_parked", "one_at_a_time")

# Values that live at the peak of a UNet's pass, for each latent pixel of a row and channel of its
# first block: 10,108 bytes for SDXL's 320 in bfloat16.
_UNET_VALUES = 15.9
# The same of the VAE's decoder, for each pixel of the picture: 3,072 bytes for 128 in float32.
# Its encoder takes five sixths of that.
_VAE_VALUES = 6.0
# Both text encoders' on a prompt. A guess, and a large one: 77 tokens are next to nothing.
_ENCODING_BYTES = 128 * MIB
# What cuDNN works in beside the counted tensors. Guesses: it likes to unfold large convolutions,
# and the VAE's are the largest.
_UNET_WORKSPACE, _VAE_WORKSPACE = 1.25, 1.5
# The allocator holds more than what lives in its blocks; libraries load code. Guesses too, the
# same as the trainer's.
_FRAGMENTATION, _LIBRARIES_BYTES = 1.05, GIB // 2
# Rows' own weights and what merging a LoRA makes, see `stacked.MERGED_ROWS_BYTES`.
_LORA_BYTES = 512 * MIB


@dataclass(frozen=True)
class BaseSize:
    """What of a base model decides how much memory drawing takes.

    Attributes:
        unet_bytes, encoder_bytes, vae_bytes: of the weights; both text encoders together.
        unet_width, vae_width: channels of the first block.
        itemsize, vae_itemsize: bytes of a number in the UNet and in the VAE.
        vae_scale_factor: pixels per latent, each way.
        vae_tile_px: side of the tiles that the VAE can decode by.
    """

    unet_bytes: int
    encoder_bytes: int
    vae_bytes: int
    unet_width: int
    vae_width: int
    itemsize: int
    vae_itemsize: int
    vae_scale_factor: int
    vae_tile_px: int

    @property
    def weight_bytes(self) -> int:
        """Of all networks."""
        return self.unet_bytes + self.encoder_bytes + self.vae_bytes


@dataclass(frozen=True)
class MemoryPlan:
    """How one size of picture is drawn.

    Attributes:
        batch: how many pictures to denoise together, at least 1.
        needed_bytes: at the peak of one picture; 0 where nothing was counted.
        fits: False where even the thriftiest way needs more than there is. It is tried all the
            same, as what is needed is reckoned with some to spare.
        why: one line for the log.
    """

    placement: Placement
    vae_tiling: bool
    batch: int
    needed_bytes: int
    fits: bool
    why: str


def thriftiest(plan: MemoryPlan) -> MemoryPlan:
    """The same with everything given up that can be."""
    why = f"{_said(PLACEMENTS[-1], True)}, as memory ran out"
    return replace(plan, placement=PLACEMENTS[-1], vae_tiling=True, batch=1, why=why)


def plan_memory(
    size: BaseSize,
    available_bytes: int | None,
    *,
    width: int,
    height: int,
    guided: bool,
    most: int = 8,
) -> MemoryPlan:
    """The quickest way to draw pictures of a size in the memory there is.

    Args:
        available_bytes: that this base may fill, its own weights included; None: no limit, as on
            a machine whose device is the host.
        guided: whether each picture is two rows of the UNet.
        most: a ceiling on the batch, at least 1.
    """
    if available_bytes is None:
        return MemoryPlan("resident", False, most, 0, True, "the device is the host")
    for tiling in (False, True):
        for placement in PLACEMENTS:
            batch = 0
            while batch < most and available_bytes >= needed_bytes(
                size, placement, tiling, width=width, height=height, guided=guided, batch=batch + 1
            ):
                batch += 1
            if batch:
                needed = needed_bytes(
                    size, placement, tiling, width=width, height=height, guided=guided, batch=1
                )
                why = (
                    f"{_said(placement, tiling)}: a picture of {width}×{height} needs "
                    f"{needed / GIB:.1f} of {available_bytes / GIB:.1f} GiB, {batch} fit together"
                )
                return MemoryPlan(placement, tiling, batch, needed, True, why)
    placement = PLACEMENTS[-1]
    needed = needed_bytes(size, placement, True, width=width, height=height, guided=guided, batch=1)
    why = (
        f"{_said(placement, True)}, and still a picture of {width}×{height} may need "
        f"{needed / GIB:.1f} of {available_bytes / GIB:.1f} GiB"
    )
    return MemoryPlan(placement, True, 1, needed, False, why)


def needed_bytes(
    size: BaseSize,
    placement: Placement,
    tiling: bool,
    *,
    width: int,
    height: int,
    guided: bool,
    batch: int,
) -> int:
    """Most bytes at once while prompts are read, while the UNet draws, and while the VAE decodes.

    Pictures are decoded one by one, so the VAE's part does not grow with the batch.
    """
    rows = batch * (2 if guided else 1)
    latents = width * height / size.vae_scale_factor**2
    drawing = rows * latents * size.unet_width * _UNET_VALUES * size.itemsize * _UNET_WORKSPACE
    pixels = min(width * height, size.vae_tile_px**2) if tiling else width * height
    decoding = pixels * size.vae_width * _VAE_VALUES * size.vae_itemsize * _VAE_WORKSPACE
    drawing += _LORA_BYTES
    encoders = size.encoder_bytes + _ENCODING_BYTES
    if placement == "one_at_a_time":
        peak = max(encoders, size.unet_bytes + drawing, size.vae_bytes + decoding)
    else:
        others = size.encoder_bytes if placement == "resident" else 0
        both = size.unet_bytes + size.vae_bytes
        peak = max(both + encoders, both + others + drawing, both + others + decoding)
    return round(peak * _FRAGMENTATION) + _LIBRARIES_BYTES


def _said(placement: Placement, tiling: bool) -> str:
    words = {
        "resident": "all networks stay on the device",
        "encoders_parked": "the text encoders wait in host memory while the UNet draws",
        "one_at_a_time": "each network is on the device only while it works",
    }
    return words[placement] + (", and the VAE decodes in tiles" if tiling else "")
