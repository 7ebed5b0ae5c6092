"""Load the parts of a StableDiffusionXLPipeline: from a folder, the hub, or a single file.

Only safetensors are read. The heavy classes are imported from their own modules inside the
functions: importing diffusers' pipelines takes seconds, and a trainer that reuses cached latents
needs the UNet alone.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from worker.ml.base_models.device import DevicePolicy
from worker.ml.base_models.errors import BaseModelUnavailable
from worker.ml.base_models.single_file import SingleFile, build_empty

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class Variant:
    """What of a base model is otherwise than its own files say.

    Attributes:
        config, config_revision: of a single file: the folder or hub id of a pipeline with the same
            configuration, whose tokenizers, and parts that the file leaves out, are taken.
        vae, vae_revision: a folder or hub id of an AutoencoderKL in place of the base's own.
        vae_half_safe: whether the VAE stays finite in half precision, unlike SDXL's own in float16;
            then it computes as the UNet does.
        prediction_type, zero_terminal_snr: over the scheduler's configuration; None leaves it.
    """

    config: str | None = None
    config_revision: str | None = None
    vae: str | None = None
    vae_revision: str | None = None
    vae_half_safe: bool = False
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    zero_terminal_snr: bool | None = None

    def scheduler_changes(self) -> dict[str, Any]:
        """Entries of a scheduler's configuration."""
        changes: dict[str, Any] = {}
        if self.prediction_type is not None:
            changes["prediction_type"] = self.prediction_type
        if self.zero_terminal_snr is not None:
            changes["rescale_betas_zero_snr"] = self.zero_terminal_snr
        if self.zero_terminal_snr:
            # The first step must be the one of pure noise (Lin et al. 2023).
            changes["timestep_spacing"] = "trailing"
        return changes


@dataclass
class BaseModel:
    """A loaded base model; parts that were not asked for are None.

    Attributes:
        location: the folder, hub id or file it came from.
        folder: where its configuration is on this machine.
        scheduler_config: the base's own with the variant's changes, `_class_name` included.
        force_zeros_for_empty_prompt: whether an empty negative prompt means zero embeddings.
        sources: where each part's weights are: a folder with safetensors files, or a file.
    """

    location: str
    revision: str | None
    folder: Path
    scheduler_config: dict[str, Any]
    force_zeros_for_empty_prompt: bool
    sources: dict[str, Path] = field(default_factory=dict)
    unet: Any = None
    vae: Any = None
    text_encoder: Any = None
    text_encoder_2: Any = None
    tokenizer: Any = None
    tokenizer_2: Any = None

    def networks(self) -> dict[str, torch.nn.Module]:
        """The loaded parts that have weights, by their name in the pipeline."""
        return {name: part for name in WEIGHTS if (part := getattr(self, name)) is not None}


def load_base_model(
    location: str,
    revision: str | None,
    policy: DevicePolicy,
    parts: Collection[str] = PARTS,
    variant: Variant | None = None,
) -> BaseModel:
    """Load the wanted parts, frozen and in evaluation mode, on the policy's device.

    Args:
        location: a folder with `model_index.json`, a hub id, or a `.safetensors` file.
        revision: the hub revision; a folder has none.
        parts: a subset of `PARTS`.

    Raises:
        ValueError: `parts` names something that is not in `PARTS`.
        BaseModelUnavailable: the location is no SDXL pipeline, has no safetensors weights, or is
            a file without the configuration it needs.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(f"unknown parts {unknown}; known are {list(PARTS)}")
    variant = variant or Variant()
    if variant.vae_half_safe:
        policy = replace(policy, vae_dtype=policy.dtype)
    single = SingleFile(Path(location)) if location.endswith(".safetensors") else None
    home, home_revision = location, revision
    if single is not None:
        if variant.config is None:
            raise BaseModelUnavailable(
                f"{location} is a single file; it needs the configuration of another pipeline"
            )
        home, home_revision = variant.config, variant.config_revision
    try:
        index_path = local_path(home, home_revision, "model_index.json")
        index = json.loads(index_path.read_text())
        if index.get("_class_name") != "StableDiffusionXLPipeline":
            raise BaseModelUnavailable(
                f"{home} holds a {index.get('_class_name')}, not a StableDiffusionXLPipeline"
            )
        scheduler = json.loads(
            local_path(home, home_revision, "scheduler/scheduler_config.json").read_text()
        )
        marked = {} if single is None else single.scheduler_changes
        base = BaseModel(
            location=location,
            revision=revision,
            folder=index_path.parent,
            scheduler_config={**scheduler, **marked, **variant.scheduler_changes()},
            force_zeros_for_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", True)),
            sources=_sources(index_path.parent, single, variant),
        )
        for part in parts:
            if part == "vae" and variant.vae is not None:
                loaded = _load_part(part, variant.vae, variant.vae_revision, policy, None)
            elif single is not None and part in WEIGHTS and single.has(part):
                loaded = _from_file(single, part, home, home_revision, policy)
            else:
                loaded = _load_part(part, home, home_revision, policy, part)
            setattr(base, part, loaded)
    except OSError as error:
        raise BaseModelUnavailable(f"{location}: {error}") from error
    return base


def _sources(folder: Path, single: SingleFile | None, variant: Variant) -> dict[str, Path]:
    sources = {part: folder / part for part in WEIGHTS}
    if single is not None:
        sources |= {part: single.path for part in WEIGHTS if single.has(part)}
    if variant.vae is not None:
        sources["vae"] = local_path(variant.vae, variant.vae_revision, "config.json").parent
    return sources


def _from_file(
    single: SingleFile, part: str, config: str, revision: str | None, policy: DevicePolicy
) -> Any:
    network = build_empty(part, config, revision)
    single.fill(part, network, policy.vae_dtype if part == "vae" else policy.dtype)
    return network.to(policy.device).requires_grad_(False).eval()


def _load_part(
    part: str, location: str, revision: str | None, policy: DevicePolicy, subfolder: str | None
) -> Any:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    # Progress bars on standard error would garble a worker's log.
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()

    where: dict[str, Any] = {"revision": revision}
    if subfolder is not None:
        where["subfolder"] = subfolder
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
