"""Where and in what precision to train, and why: decided before anything is loaded."""

import os
from dataclasses import dataclass

import torch

from app.trainings.params import TrainingParams
from worker.ml.base_models.device import DevicePolicy, choose_policy

# Full SDXL at 1024 px without checkpointing holds about this much beside the weights, an image.
_ACTIVATION_BYTES_AT_1024 = 9 * 1024**3
_WEIGHTS_BYTES = 6 * 1024**3
PLAIN_ATTENTION_LATENT_SIDE = 32


@dataclass(frozen=True)
class Plan:
    """How to run.

    Attributes:
        policy: device and number formats of the frozen networks.
        autocast: format of the arithmetic; None computes in the weights' own.
        plain_attention: whether attention is computed step by step, not by the fused kernel.
        gradient_checkpointing: whether activations are computed twice instead of kept.
        reasons: a sentence for each choice, for the log.
    """

    policy: DevicePolicy
    autocast: torch.dtype | None
    plain_attention: bool
    gradient_checkpointing: bool
    reasons: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        """Where the training runs."""
        return self.policy.device


def make_plan(params: TrainingParams, vae_scale_factor: int) -> Plan:
    """Choose from the device found, its free memory, and what the parameters ask.

    Args:
        vae_scale_factor: of the base model, pixels per latent each way.
    """
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        return _cuda_plan(torch.device("cuda", rank), params)
    return _cpu_plan(params, params.resolution // vae_scale_factor)


def cpu_computes_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; others emulate it, slower than float32."""
    # torch has no public name for these questions.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _cpu_plan(params: TrainingParams, latent_side: int) -> Plan:
    device = torch.device("cpu")
    where = "device cpu: no CUDA device was found"
    asked = params.mixed_precision
    if asked == "bf16" or (asked == "auto" and cpu_computes_bfloat16()):
        why = "this CPU has instructions for it" if _is_auto(params) else "as asked"
        # In bfloat16 the fused kernel's backward takes a third of a small step; for large
        # pictures the plain one's memory, which grows with the square of the area, weighs more.
        plain = latent_side <= PLAIN_ATTENTION_LATENT_SIDE
        return Plan(
            DevicePolicy(device, torch.bfloat16, torch.float32),
            autocast=torch.bfloat16,
            plain_attention=plain,
            gradient_checkpointing=False,
            reasons=(where, f"base in bfloat16, LoRA in float32: {why}"),
        )
    note = {
        "auto": "float32: this CPU would only emulate bfloat16",
        "fp16": "float16 has no fast arithmetic on CPUs, so float32",
        "no": "float32, as asked",
    }[asked]
    return Plan(
        DevicePolicy(device, torch.float32, torch.float32),
        autocast=None,
        plain_attention=False,
        gradient_checkpointing=False,
        reasons=(where, note),
    )


def _cuda_plan(device: torch.device, params: TrainingParams) -> Plan:
    chosen = choose_policy(str(device))
    dtype = {
        "auto": chosen.dtype,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "no": torch.float32,
    }[params.mixed_precision]
    free, total = torch.cuda.mem_get_info(device)
    scale = (
        (params.resolution / 1024) ** 2 * params.batch_size * (2 if dtype == torch.float32 else 1)
    )
    needed = _WEIGHTS_BYTES + _ACTIVATION_BYTES_AT_1024 * scale
    checkpointing = needed > free
    gib = 1024**3
    why = "as asked" if not _is_auto(params) else "the fastest this device computes well in"
    return Plan(
        DevicePolicy(device, dtype, chosen.vae_dtype),
        autocast=None if dtype == torch.float32 else dtype,
        plain_attention=False,
        gradient_checkpointing=checkpointing,
        reasons=(
            f"device {torch.cuda.get_device_name(device)}: {free / gib:.1f} of "
            f"{total / gib:.1f} GiB are free",
            f"base in {str(dtype).removeprefix('torch.')}, LoRA in float32: {why}",
            f"gradient checkpointing {'on' if checkpointing else 'off'}: about "
            f"{needed / gib:.1f} GiB would be held without it",
        ),
    )


def _is_auto(params: TrainingParams) -> bool:
    return params.mixed_precision == "auto"
