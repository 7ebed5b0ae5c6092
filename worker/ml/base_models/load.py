"""Load the parts of a StableDiffusionXLPipeline from a folder or the hub, safetensors only.

The heavy classes are imported from their own modules inside the functions: importing
diffusers' pipelines takes seconds, and a trainer that reuses cached latents needs the UNet alone.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worker.ml.base_models.device import DevicePolicy

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


class BaseModelUnavailable(Exception):
    """The base model cannot be loaded from where the catalog says it is."""

    code = "base_model_unavailable"


@dataclass
class BaseModel:
    """A loaded base model; parts that were not asked for are None.

    Attributes:
        location: the folder or hub id it came from.
        folder: where its files are on this machine.
        scheduler_config: the base's own, `_class_name` included.
        force_zeros_for_empty_prompt: whether an empty negative prompt means zero embeddings.
    """

    location: str
    revision: str | None
    folder: Path
    scheduler_config: dict[str, Any]
    force_zeros_for_empty_prompt: bool
    unet: Any = None
    vae: Any = None
    text_encoder: Any = None
    text_encoder_2: Any = None
    tokenizer: Any = None
    tokenizer_2: Any = None

    def networks(self) -> dict[str, torch.nn.Module]:
        """The loaded parts that have weights, by their name in the pipeline."""
        names = ("unet", "vae", "text_encoder", "text_encoder_2")
        return {name: part for name in names if (part := getattr(self, name)) is not None}


def load_base_model(
    location: str,
    revision: str | None,
    policy: DevicePolicy,
    parts: Collection[str] = PARTS,
) -> BaseModel:
    """Load the wanted parts, frozen and in evaluation mode, on the policy's device.

    Args:
        location: a folder with `model_index.json`, or a hub id.
        revision: the hub revision; a folder has none.
        parts: a subset of `PARTS`.

    Raises:
        ValueError: `parts` names something that is not in `PARTS`.
        BaseModelUnavailable: the location is no SDXL pipeline, or has no safetensors weights.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(f"unknown parts {unknown}; known are {list(PARTS)}")
    try:
        index_path = local_path(location, revision, "model_index.json")
        index = json.loads(index_path.read_text())
        if index.get("_class_name") != "StableDiffusionXLPipeline":
            raise BaseModelUnavailable(
                f"{location} holds a {index.get('_class_name')}, not a StableDiffusionXLPipeline"
            )
        base = BaseModel(
            location=location,
            revision=revision,
            folder=index_path.parent,
            scheduler_config=json.loads(
                local_path(location, revision, "scheduler/scheduler_config.json").read_text()
            ),
            force_zeros_for_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", True)),
        )
        for part in parts:
            setattr(base, part, _load_part(part, location, revision, policy))
    except OSError as error:
        raise BaseModelUnavailable(f"{location}: {error}") from error
    return base


def _load_part(part: str, location: str, revision: str | None, policy: DevicePolicy) -> Any:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    # Progress bars on standard error would garble a worker's log.
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()

    where = {"subfolder": part, "revision": revision}
    if part.startswith("tokenizer"):
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(location, **where)
    weights = {**where, "use_safetensors": True}
    if part == "unet":
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        network = UNet2DConditionModel.from_pretrained(location, dtype=policy.dtype, **weights)
    elif part == "vae":
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        network = AutoencoderKL.from_pretrained(location, dtype=policy.vae_dtype, **weights)
    elif part == "text_encoder":
        from transformers import CLIPTextModel

        network = CLIPTextModel.from_pretrained(location, dtype=policy.dtype, **weights)
    else:
        from transformers import CLIPTextModelWithProjection

        network = CLIPTextModelWithProjection.from_pretrained(
            location, dtype=policy.dtype, **weights
        )
    return network.to(policy.device).requires_grad_(False).eval()


def local_path(location: str, revision: str | None, name: str) -> Path:
    """A small configuration file of the model: in its folder, or fetched into the hub's cache."""
    if Path(location).is_dir():
        return Path(location, name)
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(location, name, revision=revision))
