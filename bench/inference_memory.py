"""Counts what SDXL's UNet and VAE hold on their way to a picture, with no GPU or weights.

    python -m bench.inference_memory

The networks run on the meta device, and every living tensor is counted; see `live_bytes` for how
far that is from a GPU. worker/ml/inference/memory.py reckons with the two figures it prints.
"""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from bench import sdxl
from bench.live_bytes import CudaAttention, LiveBytes
from bench.memory import meta_unet

VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
}


@torch.no_grad()
def unet_values(side: int, rows: int) -> float:
    """Values at the peak of a pass, for each latent pixel of a row and channel of its first block.

    Args:
        side: of the picture, px.
    """
    unet = meta_unet(sdxl.UNET).bfloat16()
    latents = side // sdxl.VAE_SCALE_FACTOR

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta", dtype=torch.bfloat16)

    inputs = {
        "sample": empty(rows, 4, latents, latents),
        "timestep": torch.tensor(5, device="meta"),
        "encoder_hidden_states": empty(rows, sdxl.TOKENS, sdxl.UNET["cross_attention_dim"]),
        "added_cond_kwargs": {"text_embeds": empty(rows, sdxl.POOLED), "time_ids": empty(rows, 6)},
    }
    with LiveBytes() as live, CudaAttention():
        unet(**inputs)
    width = sdxl.UNET["block_out_channels"][0]
    return live.peak / (rows * latents**2 * width * torch.bfloat16.itemsize)


@torch.no_grad()
def vae_values(side: int, *, encode: bool = False) -> float:
    """The same of the VAE's decoder, or encoder, for each pixel of a picture."""
    with torch.device("meta"):
        vae = AutoencoderKL(**VAE)
        latents = side // sdxl.VAE_SCALE_FACTOR
        given = torch.empty(1, 3, side, side) if encode else torch.empty(1, 4, latents, latents)
    with LiveBytes() as live, CudaAttention():
        (vae.encode if encode else vae.decode)(given)
    return live.peak / (side**2 * VAE["block_out_channels"][0] * torch.float32.itemsize)


def main() -> None:
    """Print figures for the sizes people draw."""
    for side in (512, 1024, 2048):
        unet, rows = unet_values(side, 1), unet_values(side, 8)
        vae, encoder = vae_values(side), vae_values(side, encode=True)
        print(f"{side} px: UNet {unet:.2f}, of 8 rows {rows:.2f}; VAE {vae:.2f}, {encoder:.2f}")


if __name__ == "__main__":
    main()
