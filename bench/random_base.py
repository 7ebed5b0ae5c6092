"""A base model of SDXL's architecture with random weights, in a folder as any base is.

So the worker's own code loads it, and no weights from elsewhere are needed. The tokenizers are
emoji-64's, whose numbers are within SDXL's vocabulary.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench import sdxl
from bench.settings import BASE


def write_random_base(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    parts: Mapping[str, Mapping[str, Any]] = sdxl.PARTS,
) -> Path:
    """Write the base, of SDXL's size 7 GB; the same folder.

    Args:
        folder: must not be there yet.
        device: where weights are drawn, which a CPU takes minutes for.
        dtype: of all but the VAE, which is written in float32.
        parts: configurations by the parts' names in the pipeline.
    """
    folder.mkdir()
    for name in ("tokenizer", "tokenizer_2", "scheduler"):
        shutil.copytree(BASE / name, folder / name)
    shutil.copy(BASE / "model_index.json", folder)
    for name, config in parts.items():
        make_part(name, config, device, torch.float32 if name == "vae" else dtype).save_pretrained(
            folder / name
        )
    return folder


def make_part(
    name: str, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> Any:
    """A network with random weights.

    Args:
        name: `unet`, `vae`, `text_encoder` or `text_encoder_2`.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    before = torch.get_default_dtype()
    # Made in its own precision: float32 first would not fit small cards.
    torch.set_default_dtype(dtype)
    try:
        with device:
            if name == "unet":
                return UNet2DConditionModel(**config)
            if name == "vae":
                return AutoencoderKL(**config)
            encoder = CLIPTextModel if name == "text_encoder" else CLIPTextModelWithProjection
            return encoder(CLIPTextConfig(**config))
    finally:
        torch.set_default_dtype(before)
