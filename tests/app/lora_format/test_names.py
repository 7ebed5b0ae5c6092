"""kohya's names and shapes, against the list of every module that sd-scripts adapts on SDXL."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from app.lora_format.names import UnetShape, kohya_prefix
from bench.sdxl import UNET

REFERENCE = json.loads((Path(__file__).parents[2] / "data" / "kohya_sdxl_modules.json").read_text())


@pytest.fixture(scope="module")
def sdxl_modules() -> dict[str, tuple[int, ...]]:
    """Weight shapes of every linear and convolution by kohya's name; no weight is allocated."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
    shape = UnetShape.of(unet.config)
    return {
        kohya_prefix(f"unet.{name}", shape): tuple(module.weight.shape)
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


@pytest.mark.parametrize("part", ["unet", "unet_conv"])
def test_every_module_that_sd_scripts_adapts_has_its_name_and_shape(part, sdxl_modules):
    for key, down, up in REFERENCE[part]:
        assert key in sdxl_modules, key
        weight = sdxl_modules[key]
        assert (up[0], *down[1:]) == weight, key


def test_no_two_modules_share_a_name(sdxl_modules):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
    count = sum(isinstance(module, nn.Linear | nn.Conv2d) for module in unet.modules())
    assert len(sdxl_modules) == count


def test_text_encoders_keep_their_own_names():
    shape = UnetShape(2, (True, True, False))
    path = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    assert kohya_prefix(path, shape) == "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
    known = {key for key, _, _ in REFERENCE["text_encoders"]}
    assert kohya_prefix(path.replace("encoder.", "encoder_2.", 1), shape) in known


def test_a_path_outside_the_family_is_refused():
    with pytest.raises(KeyError, match="controlnet"):
        kohya_prefix("unet.controlnet.0", UnetShape(2, (True, True, False)))
