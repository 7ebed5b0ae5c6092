"""Which device and which number formats a model runs in."""

from dataclasses import dataclass

import torch

# Below this much memory the VAE's float32 activations at 1024 px no longer fit beside the UNet.
_FLOAT32_VAE_MIN_BYTES = 16 * 1024**3


@dataclass(frozen=True)
class DevicePolicy:
    """Where weights live and in what precision they compute.

    Attributes:
        device: where every component is placed.
        dtype: of UNet, text encoders and captioner.
        vae_dtype: of the VAE; never float16, in which SDXL's VAE overflows to NaN, unless the base
            model is said to have one that does not.
    """

    device: torch.device
    dtype: torch.dtype
    vae_dtype: torch.dtype


def choose_policy(device: str | None = None) -> DevicePolicy:
    """Pick formats for a device: CUDA if there is one, else the CPU.

    On the CPU everything is float32, so that the same seed gives the same bits. On CUDA, bfloat16
    from Ampere on (compute capability 8) and float16 before it; the VAE stays in float32 unless
    the card is small and knows bfloat16.

    Args:
        device: a torch device name such as "cpu" or "cuda:1"; None chooses.

    Raises:
        ValueError: the device is neither a CPU nor a CUDA device.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cpu":
        return DevicePolicy(chosen, torch.float32, torch.float32)
    if chosen.type != "cuda":
        raise ValueError(f"device is {chosen}; only cpu and cuda are supported")
    properties = torch.cuda.get_device_properties(chosen)
    if properties.major < 8:
        return DevicePolicy(chosen, torch.float16, torch.float32)
    small = properties.total_memory < _FLOAT32_VAE_MIN_BYTES
    return DevicePolicy(chosen, torch.bfloat16, torch.bfloat16 if small else torch.float32)
