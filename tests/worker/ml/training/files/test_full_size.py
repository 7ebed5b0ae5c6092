"""On SDXL itself, without its weights: names, shapes and sizes of the file are sd-scripts'."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from app.lora_format.names import UnetShape
from app.trainings.params import TrainingParams
from bench.sdxl import UNET
from worker.ml.lora_files.modules import Lora, LoraModule
from worker.ml.lora_files.write import write_lora
from worker.ml.training.network.adapters import add_adapters

TESTS = Path(__file__).parents[4]
# Every module that sd-scripts' networks.lora adapts, with the shapes of down and up at rank 32,
# and at rank 16 for the 3×3 convolutions.
KOHYA = json.loads((TESTS / "data" / "kohya_sdxl_modules.json").read_text())
MIB = 1024**2


@pytest.fixture
def networks():
    text = {"max_position_embeddings": 77, "vocab_size": 49408}
    large = CLIPTextConfig(
        **text,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
    )
    big = CLIPTextConfig(
        **text,
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        projection_dim=1280,
    )
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(**UNET).to(torch.bfloat16),
            "text_encoder": CLIPTextModel(large),
            "text_encoder_2": CLIPTextModelWithProjection(big),
        }


def _file(networks, path, **params):
    """A file in half precision with the shapes of what is trained; shapes and bytes in it."""
    chosen = TrainingParams(seed=1, **params)
    adapters = add_adapters(networks, chosen)
    modules = {}
    for name, layer in adapters.layers.items():
        matrices = layer.matrices()
        down, up = matrices["lora_down.weight"], matrices["lora_up.weight"]
        modules[name] = LoraModule(torch.zeros(down.shape), torch.zeros(up.shape), layer.alpha)
    write_lora(path, Lora(modules), UnetShape.of(networks["unet"].config), {})
    with safe_open(str(path), "pt") as file:
        return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


def _expected(*parts):
    return {
        f"{name}.{half}.weight": shape
        for part in parts
        for name, down, up in KOHYA[part]
        for half, shape in (("lora_down", down), ("lora_up", up))
    }


@pytest.mark.parametrize(
    ("params", "parts", "modules"),
    [
        ({"target": "full"}, ["unet"], 722),
        ({"target": "conv", "conv_rank": 16}, ["unet", "unet_conv"], 788),
        ({"target": "full", "train_text_encoder": True}, ["unet", "text_encoders"], 722 + 264),
    ],
    ids=["full", "conv", "text"],
)
def test_names_and_shapes_are_those_of_sd_scripts(networks, tmp_path, params, parts, modules):
    found = _file(networks, tmp_path / "lora.safetensors", rank=32, **params)
    alphas = {name for name in found if name.endswith(".alpha")}
    assert len(alphas) == modules
    assert all(found[name] == [] for name in alphas)
    matrices = {name: shape for name, shape in found.items() if name not in alphas}
    assert matrices == _expected(*parts)


def test_attention_at_rank_32_keeps_its_promise_of_size(networks, tmp_path):
    path = tmp_path / "lora.safetensors"
    found = _file(networks, path, rank=32, target="attention")
    matrices = {name: shape for name, shape in found.items() if not name.endswith(".alpha")}
    assert len(matrices) == 2 * 560
    assert matrices.items() <= _expected("unet").items()
    print(f"attention at rank 32: {path.stat().st_size / MIB:.1f} MiB")
    assert path.stat().st_size < 100 * MIB
