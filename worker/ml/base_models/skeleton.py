"""A base model without its weights: which modules it has, and what shape each weight is.

Enough to read and write LoRA files; a full SDXL takes a second and no memory.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from app.lora_format.index import LoraIndex
from app.lora_format.names import UnetShape
from worker.ml.base_models.load import BaseModelUnavailable, local_path
from worker.ml.lora_files.targets import adaptable_modules, index_of


@dataclass(frozen=True)
class Skeleton:
    """What LoRA files need to know of a base.

    Attributes:
        weights: shape of every weight a LoRA can change, (out, in) or (out, in, kh, kw), by
            canonical path.
        shape: of the UNet, for kohya's names.
        index: the canonical path of each name that files give a module.
    """

    weights: dict[str, tuple[int, ...]]
    shape: UnetShape
    index: LoraIndex

    @classmethod
    def of(cls, networks: Mapping[str, nn.Module]) -> "Skeleton":
        """Of a base's networks by their name in the pipeline; the UNet must be among them."""
        weights: dict[str, tuple[int, ...]] = {}
        for path, module in adaptable_modules(networks).items():
            weight: Any = module.weight
            weights[path] = tuple(weight.shape)
        unet: Any = networks["unet"]
        return cls(weights, UnetShape.of(unet.config), index_of(networks))


def load_skeleton(location: str, revision: str | None = None) -> Skeleton:
    """Read a base model's configurations; of a hub id only these are fetched.

    Args:
        location: a folder with `model_index.json`, or a hub id.

    Raises:
        BaseModelUnavailable: the location is no SDXL pipeline.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def configuration(name: str) -> dict[str, Any]:
        try:
            found = json.loads(local_path(location, revision, name).read_text())
        except (OSError, ValueError) as error:
            raise BaseModelUnavailable(f"{location}: {name}: {error}") from error
        return dict(found)

    kind = configuration("model_index.json").get("_class_name")
    if kind != "StableDiffusionXLPipeline":
        raise BaseModelUnavailable(f"{location} holds a {kind}, not a StableDiffusionXLPipeline")
    with torch.device("meta"):
        networks = {
            "unet": UNet2DConditionModel.from_config(configuration("unet/config.json")),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(**configuration("text_encoder/config.json"))
            ),
            "text_encoder_2": CLIPTextModelWithProjection(
                CLIPTextConfig(**configuration("text_encoder_2/config.json"))
            ),
        }
    return Skeleton.of(networks)
