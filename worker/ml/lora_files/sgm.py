"""The names that SDXL's original code gives a UNet's modules, on which kohya's layout rests."""

import re
from collections.abc import Mapping
from typing import Any

_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_IN_BLOCK = re.compile(
    r"(?:(down|up)_blocks\.(\d+)|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)


def sgm_name(name: str, config: Mapping[str, Any]) -> str | None:
    """The original name of a module from its name in diffusers' UNet; None when it has none.

    In the original, input and output blocks are counted through: each level has one for each of
    its layers, and on the way down one more for its downsampler.

    Args:
        name: e.g. `down_blocks.1.attentions.0.proj_in`.
        config: of the UNet; `layers_per_block` and `up_block_types` are read.
    """
    if name in _OUTER:
        return _OUTER[name]
    match = _IN_BLOCK.fullmatch(name)
    if match is None:
        return None
    way, level, kind, number, rest = match.groups()
    if kind == "resnets":
        if rest not in _RESNET:
            return None
        rest = _RESNET[rest]
    position = int(number)
    if way is None:
        # resnet, attention, resnet
        return f"middle_block.{2 * position if kind == 'resnets' else 2 * position + 1}.{rest}"
    layers = int(config["layers_per_block"])
    first = int(level) * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.op"
    if kind == "upsamplers":
        attends = "CrossAttn" in config["up_block_types"][int(level)]
        return f"output_blocks.{first + layers}.{2 if attends else 1}.conv"
    block = (
        f"input_blocks.{first + position + 1}"
        if way == "down"
        else (f"output_blocks.{first + position}")
    )
    return f"{block}.{0 if kind == 'resnets' else 1}.{rest}"
