"""A checkpoint's file: kohya layout with the metadata other programs read, proven by reading it."""

import json
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from worker.ml.lora_files.index import LoraIndex
from worker.ml.lora_files.modules import Lora, LoraModule
from worker.ml.lora_files.names import UnetShape
from worker.ml.lora_files.read import read_lora
from worker.ml.lora_files.write import write_kohya
from worker.ml.training.errors import ExportMismatch
from worker.ml.training.spec import TrainingSpec

# Two roundings to half precision, one for each matrix, relative to the largest entry of ΔW.
TOLERANCE = 4e-3
# Half the distance of half precision's smallest numbers: what rounding may move one that is tiny.
_SMALLEST_ROUNDING = 2.0**-25
_SDXL = "stable-diffusion-xl-v1-base"


@dataclass(frozen=True)
class ExportedFile:
    """A checkpoint on disk."""

    path: Path
    sha256: str
    bytes: int
    metadata: dict[str, str]


def export_checkpoint(
    path: Path,
    lora: Lora,
    spec: TrainingSpec,
    shape: UnetShape,
    index: LoraIndex,
    *,
    prediction: str,
    step: int,
    epoch: int,
    total_steps: int,
) -> ExportedFile:
    """Write a checkpoint in half precision, read it back, and compare ΔW of every module.

    Raises:
        ExportMismatch: what was read is not what was trained.
    """
    metadata = file_metadata(
        spec, prediction=prediction, step=step, epoch=epoch, total_steps=total_steps
    )
    written = write_kohya(path, lora, shape, metadata, torch.float16)
    _check(path, lora, index)
    data = path.read_bytes()
    return ExportedFile(path, sha256(data).hexdigest(), len(data), written)


def file_metadata(
    spec: TrainingSpec, *, prediction: str, step: int, epoch: int, total_steps: int
) -> dict[str, str]:
    """`ss_*` as sd-scripts writes them, `modelspec.*` of version 1.0.1, and the spec's own.

    No time of day: a resumed run writes the same bytes as one that was not.
    """
    params = spec.params
    sdxl = spec.base_model.architecture == "sdxl"
    resolution = f"{params.resolution}x{params.resolution}"
    tags = Counter(
        tag.strip() for image in spec.images for tag in image.caption.split(",") if tag.strip()
    )
    dataset = {
        "is_dreambooth": True,
        "batch_size_per_device": params.batch_size,
        "num_train_images": sum(i.repeats or params.num_repeats for i in spec.images),
        "num_reg_images": 0,
        "resolution": [params.resolution, params.resolution],
        "enable_bucket": True,
        "shuffle_caption": params.shuffle_caption,
        "keep_tokens": params.keep_tokens,
        "flip_aug": params.flip_augment,
        "tag_frequency": {spec.name: dict(tags)},
    }
    found = {
        "ss_v2": "False",
        "ss_base_model_version": "sdxl_base_v1-0" if sdxl else spec.base_model.architecture,
        "ss_sd_model_name": spec.base_model.id,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(params.rank),
        "ss_network_alpha": f"{params.alpha:g}",
        "ss_network_args": json.dumps({"target": params.target}),
        "ss_output_name": spec.name,
        "ss_datasets": json.dumps([dataset]),
        "ss_tag_frequency": json.dumps({spec.name: dict(tags)}),
        "ss_dataset_dirs": json.dumps(
            {spec.name: {"n_repeats": params.num_repeats, "img_count": len(spec.images)}}
        ),
        "ss_num_train_images": str(len(spec.images)),
        "ss_resolution": f"({params.resolution}, {params.resolution})",
        "ss_batch_size_per_device": str(params.batch_size),
        "ss_gradient_accumulation_steps": str(params.gradient_accumulation),
        "ss_steps": str(step),
        "ss_max_train_steps": str(total_steps),
        "ss_epoch": str(epoch),
        "ss_num_epochs": str(params.epochs),
        "ss_seed": str(spec.seed),
        "ss_learning_rate": f"{params.learning_rate:g}",
        "ss_unet_lr": f"{params.learning_rate:g}",
        "ss_lr_scheduler": params.lr_scheduler,
        "ss_lr_warmup_steps": str(params.lr_warmup_steps),
        "ss_optimizer": params.optimizer,
        "ss_mixed_precision": params.mixed_precision,
        "ss_min_snr_gamma": str(params.min_snr_gamma),
        "ss_noise_offset": f"{params.noise_offset:g}",
        "ss_caption_dropout_rate": f"{params.caption_dropout_rate:g}",
        "ss_max_grad_norm": f"{params.max_grad_norm:g}",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{_SDXL if sdxl else spec.base_model.architecture}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.resolution": resolution,
        "modelspec.prediction_type": "v" if prediction == "v_prediction" else prediction,
        "modelspec.title": spec.name,
        "modelspec.tags": ", ".join(tag for tag, _ in tags.most_common(10)),
    }
    if spec.trigger_word:
        found["modelspec.trigger_phrase"] = spec.trigger_word
    return {**found, **spec.metadata}


def _check(path: Path, trained: Lora, index: LoraIndex) -> None:
    stored, unmatched = read_lora(path, index)
    if unmatched or stored.modules.keys() != trained.modules.keys():
        lost = sorted(trained.modules.keys() - stored.modules.keys())[:3]
        raise ExportMismatch(f"{path.name} reads back with other modules: {lost or unmatched[:3]}")
    for name, module in trained.modules.items():
        wanted, found = _delta(module), _delta(stored.modules[name])
        worst = float((wanted - found).abs().max())
        largest = float(wanted.abs().max())
        # Written so that NaN fails too.
        if not worst <= TOLERANCE * largest + _slack(module):
            raise ExportMismatch(f"{name} of {path.name} reads back {worst} off, of {largest}")


def _slack(module: LoraModule) -> float:
    """How far ΔW may be off because tiny entries have fewer digits, as in the first steps."""
    sizes = float(module.up.abs().max()) + float(module.down.abs().max())
    return module.scale * module.rank * _SMALLEST_ROUNDING * sizes


def _delta(module: LoraModule) -> torch.Tensor:
    """ΔW, (out, in · kernel), float32."""
    up = module.up.float().flatten(1)
    return module.scale * up @ module.down.float().flatten(1)
