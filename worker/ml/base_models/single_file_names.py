"""Where each parameter of a diffusers model stands in a single-file SDXL checkpoint.

The file has the reference implementation's names: the UNet under `model.diffusion_model.`, the VAE
under `first_stage_model.`, CLIP-L as transformers has it and OpenCLIP-bigG as open_clip has it
under `conditioner.embedders.0` and `.1`. Each is computed from a parameter's own name, so that one
without a place is an error, and so is a place that nobody asked for.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from app.checkpoints import PREFIXES
from app.lora_format.names import UnetShape, sgm_name


@dataclass(frozen=True)
class Place:
    """A key of the file, and what makes the parameter of its tensor."""

    key: str
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor


def place_of(part: str, name: str, *, unet: UnetShape | None = None, vae_blocks: int = 4) -> Place:
    """Where the parameter `name` of a part (`unet`, `vae`, …) is.

    Args:
        unet: the UNet's shape, for its own parameters.
        vae_blocks: how many levels the VAE has, as its decoder counts them from the other end.

    Raises:
        KeyError: the family has no such parameter.
    """
    if part == "unet":
        assert unet is not None, "the UNet's names depend on its shape"
        return Place(PREFIXES[part] + _unet(name, unet))
    if part == "vae":
        return _vae(name, vae_blocks)
    if part == "text_encoder":
        # CLIPTextModel lost this level in transformers 5.6.
        level = "" if name.startswith("text_model.") else "text_model."
        return Place(f"{PREFIXES[part]}{level}{name}")
    return _open_clip(name)


_NORMS = {"norm1": ("conv1", "in_layers.0"), "norm2": ("conv2", "out_layers.0")}


def _unet(name: str, shape: UnetShape) -> str:
    path, _, kind = name.rpartition(".")
    if path == "conv_norm_out":
        return f"out.0.{kind}"
    parent, _, last = path.rpartition(".")
    if ".resnets." in path and last in _NORMS:
        # A norm stands beside its convolution, two places before it.
        convolution, own = _NORMS[last]
        group = sgm_name(f"{parent}.{convolution}", shape)
        return f"{group.rsplit('.', 2)[0]}.{own}.{kind}"
    return f"{sgm_name(path, shape)}.{kind}"


_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def _vae(name: str, blocks: int) -> Place:
    prefix = PREFIXES["vae"]
    side, _, rest = name.partition(".")
    if side in ("quant_conv", "post_quant_conv"):
        return Place(prefix + name)
    path, _, kind = rest.rpartition(".")
    if path in ("conv_in", "conv_out"):
        return Place(f"{prefix}{side}.{path}.{kind}")
    if path == "conv_norm_out":
        return Place(f"{prefix}{side}.norm_out.{kind}")
    if match := re.fullmatch(r"mid_block\.attentions\.0\.(.+)", path):
        own = _VAE_ATTENTION[match[1]]
        key = f"{prefix}{side}.mid.attn_1.{own}.{kind}"
        # Linears here, 1×1 convolutions there.
        flat = kind == "weight" and own != "norm"
        return Place(key, lambda tensor: tensor.reshape(tensor.shape[:2]) if flat else tensor)
    if match := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", path):
        return Place(f"{prefix}{side}.mid.block_{int(match[1]) + 1}.{_vae_part(match[2])}.{kind}")
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(.+)", path)
    if match is None:
        raise KeyError(f"{name} is no parameter of an SDXL VAE")
    way, number, group, inner = match.groups()
    level = int(number) if way == "down" else blocks - 1 - int(number)
    if group == "resnets":
        layer, _, part = inner.partition(".")
        return Place(f"{prefix}{side}.{way}.{level}.block.{layer}.{_vae_part(part)}.{kind}")
    return Place(f"{prefix}{side}.{way}.{level}.{way}sample.conv.{kind}")


def _vae_part(part: str) -> str:
    return "nin_shortcut" if part == "conv_shortcut" else part


_OPEN_CLIP_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_THIRDS = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}


def _open_clip(name: str) -> Place:
    prefix = PREFIXES["text_encoder_2"]
    plain = name.removeprefix("text_model.")
    if plain == "text_projection.weight":
        # open_clip multiplies from the right.
        return Place(f"{prefix}text_projection", lambda tensor: tensor.T.contiguous())
    whole = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    if plain in whole:
        return Place(prefix + whole[plain])
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", plain)
    if match is None:
        raise KeyError(f"{name} is no parameter of an SDXL text encoder")
    layer, part, kind = match.groups()
    block = f"{prefix}transformer.resblocks.{layer}"
    if part in _THIRDS:
        third = _THIRDS[part]
        return Place(
            f"{block}.attn.in_proj_{kind}", lambda tensor: torch.chunk(tensor, 3)[third].clone()
        )
    return Place(f"{block}.{_OPEN_CLIP_PARTS[part]}.{kind}")
