"""Write what the API knows of each base model: every module's path and the shape of its weight.

    python -m tools.architectures

Networks are built from their configurations without allocating a weight.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from app.lora_format.architectures import FOLDER
from app.lora_format.names import UnetShape
from app.settings import REPOSITORY
from bench import sdxl
from worker.ml.lora_files.targets import adaptable_modules

EMOJI = REPOSITORY / "assets" / "emoji-64"
# OpenAI's CLIP ViT-L/14 and OpenCLIP's ViT-bigG/14, as far as shapes go.
CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}


def main() -> None:
    """Write every file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
        print((FOLDER / f"{name}.json").relative_to(REPOSITORY))


def documents() -> dict[str, str]:
    """The content of each file by its architecture's id."""
    encoders = [_config(EMOJI / name) for name in ("text_encoder", "text_encoder_2")]
    return {
        "sdxl": document("Stable Diffusion XL", sdxl.UNET, CLIP_L, CLIP_G),
        "emoji-64": document("Emoji, 64 px", _config(EMOJI / "unet"), *encoders),
    }


def document(
    title: str, unet: dict[str, Any], text_encoder: dict[str, Any], text_encoder_2: dict[str, Any]
) -> str:
    """One base model, as JSON with a module on each line.

    Args:
        unet, text_encoder, text_encoder_2: their configurations.
    """
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {
            "unet": UNet2DConditionModel.from_config(unet),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**text_encoder)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**text_encoder_2)),
        }
    shape = UnetShape.of(unet)
    facts = {
        "title": title,
        "text_width": unet["cross_attention_dim"],
        "token_widths": {
            "text_encoder": text_encoder["hidden_size"],
            "text_encoder_2": text_encoder_2["hidden_size"],
        },
        "layers_per_block": shape.layers_per_block,
        "attends_up": list(shape.attends_up),
    }
    head = json.dumps(facts, separators=(",", ":"))
    weights = ",\n".join(
        f"{json.dumps(path)}:{json.dumps(list(module.weight.shape), separators=(',', ':'))}"
        for path, module in adaptable_modules(networks).items()
    )
    return f'{head[:-1]},"weights":{{\n{weights}\n}}}}\n'


def _config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


if __name__ == "__main__":
    main()
