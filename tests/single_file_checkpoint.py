"""Write a pipeline's folder as one file with the reference implementation's names."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from app.checkpoints import PREFIXES
from app.lora_format.names import UnetShape
from worker.ml.base_models.load import WEIGHTS, BaseModel
from worker.ml.base_models.single_file_names import place_of


def single_file_tensors(base: BaseModel) -> dict[str, Tensor]:
    """The file's tensors: what is fused there is put together, what is 1×1 made so."""
    tensors: dict[str, Tensor] = {}
    shape = UnetShape.of(base.unet.config)
    blocks = len(base.vae.config.down_block_types)
    thirds: dict[str, list[Tensor]] = {}
    for part in WEIGHTS:
        for name, parameter in getattr(base, part).named_parameters():
            tensor = parameter.detach().clone()
            key = place_of(part, name, unet=shape, vae_blocks=blocks).key
            if key == f"{PREFIXES['text_encoder_2']}text_projection":
                tensor = tensor.T.contiguous()
            if ".attn.in_proj_" in key:
                thirds.setdefault(key, []).append(tensor)
                continue
            if part == "vae" and ".mid.attn_1." in key and ".norm." not in key and tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
            assert key not in tensors, key
            tensors[key] = tensor
    # transformers names key, value and query in that order.
    for key, (k, v, q) in thirds.items():
        tensors[key] = torch.cat([q, k, v])
    return tensors


def write_single_file(base: BaseModel, path: Path, **more: Tensor) -> Path:
    """The whole checkpoint, with whatever else is given."""
    save_file(single_file_tensors(base) | more, path)
    return path
