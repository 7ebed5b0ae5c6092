"""kohya's names: where each module of a diffusers model stands in the original SGM layout.

Computed from the UNet's configuration alone, so they hold for SDXL and for any base of its family.
The layout is that of the reference implementation's UNet: `input_blocks` counts every layer and
downsampler on the way down after the first convolution, `output_blocks` every layer on the way up.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}

# Inside a residual block, SGM's names for diffusers' parts.
_RESNET_PARTS = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TOP_PARTS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_BLOCK = re.compile(r"^(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)$")
_SAMPLER = re.compile(r"^(down|up)_blocks\.(\d+)\.(down|up)samplers\.0\.conv$")
_MIDDLE = re.compile(r"^mid_block\.(resnets|attentions)\.(\d+)\.(.+)$")


@dataclass(frozen=True)
class UnetShape:
    """What of a UNet's configuration decides its names.

    Attributes:
        layers_per_block: residual blocks of a down block; an up block has one more.
        attends_up: for each up block, whether it has attention; the upsampler comes after it.
    """

    layers_per_block: int
    attends_up: tuple[bool, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "UnetShape":
        """Read off a diffusers UNet2DConditionModel's configuration.

        Raises:
            ValueError: the blocks do not all have the same number of layers.
        """
        layers = config["layers_per_block"]
        if not isinstance(layers, int):
            raise ValueError(f"layers_per_block is {layers}; only one number for all is known")
        return cls(layers, tuple("CrossAttn" in name for name in config["up_block_types"]))


def kohya_prefix(path: str, shape: UnetShape) -> str:
    """kohya's key, without its ending, of a module by canonical path.

    `unet.down_blocks.1.attentions.0.proj_in` is `lora_unet_input_blocks_4_1_proj_in` on SDXL.

    Raises:
        KeyError: the path is none of a UNet's or text encoder's.
    """
    component, _, name = path.partition(".")
    if component == "unet":
        name = sgm_name(name, shape)
    return f"{PREFIXES[component]}_{name}".replace(".", "_")


def sgm_name(name: str, shape: UnetShape) -> str:
    """A UNet module's name in the SGM layout, from its name in diffusers.

    Raises:
        KeyError: no such module in the family.
    """
    if name in _TOP_PARTS:
        return _TOP_PARTS[name]
    if match := _BLOCK.match(name):
        way, block, kind, layer, rest = match.groups()
        group = _position(way, int(block), int(layer), shape)
        inner = 0 if kind == "resnets" else 1
        return f"{group}.{inner}.{_part(kind, rest)}"
    if match := _SAMPLER.match(name):
        way, block = match[1], int(match[2])
        if way == "down":
            return f"{_position('down', block, shape.layers_per_block, shape)}.0.op"
        inner = 2 if shape.attends_up[block] else 1
        return f"{_position('up', block, shape.layers_per_block, shape)}.{inner}.conv"
    if match := _MIDDLE.match(name):
        kind, layer, rest = match.groups()
        # Residual, attention, residual.
        inner = 2 * int(layer) if kind == "resnets" else 1
        return f"middle_block.{inner}.{_part(kind, rest)}"
    raise KeyError(f"{name} is no module of an SDXL UNet")


def _position(way: str, block: int, layer: int, shape: UnetShape) -> str:
    """The numbered group that holds a layer (or, one after the last, the downsampler)."""
    each = shape.layers_per_block + 1
    if way == "down":
        # Group 0 is the first convolution.
        return f"input_blocks.{1 + block * each + layer}"
    return f"output_blocks.{block * each + layer}"


def _part(kind: str, rest: str) -> str:
    return _RESNET_PARTS[rest] if kind == "resnets" else rest
