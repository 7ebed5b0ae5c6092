"""Where and in what precision to train, and why: decided before anything is loaded."""

import os
from dataclasses import dataclass

import torch

from app.trainings.params import TrainingParams
from worker.ml.base_models.device import DevicePolicy, choose_policy

# Full SDXL at 1024 px without checkpointing holds about this much beside the weights, an image.
_ACTIVATION_BYTES_AT_1024 = 9 * 1024**3
_WEIGHTS_BYTES = 6 * 1024**3


@dataclass(frozen=True)
class Plan:
    """How to run.

    Attributes:
        policy: device and number formats of the frozen networks.
        autocast: format of the arithmetic; None computes in the weights' own.
        gradient_checkpointing: whether activations are computed twice instead of kept.
        reasons: a sentence for each choice, for the log.
    """

    policy: DevicePolicy
    autocast: torch.dtype | None
    gradient_checkpointing: bool
    reasons: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        """Where the training runs."""
        return self.policy.device


def make_plan(params: TrainingParams, image_count_in_batch: int) -> Plan:
    """Choose from the device found, its free memory, and what the parameters ask."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        return _cuda_plan(torch.device("cuda", rank), params, image_count_in_batch)
    return _cpu_plan(params)


def _cpu_plan(params: TrainingParams) -> Plan:
    device = torch.device("cpu")
    if params.mixed_precision in ("auto", "bf16"):
        why = "about a third faster than float32 on CPUs" if _is_auto(params) else "as asked"
        return Plan(
            DevicePolicy(device, torch.bfloat16, torch.float32),
            torch.bfloat16,
            False,
            (
                "device cpu: no CUDA device was found",
                f"base in bfloat16, LoRA in float32: {why}",
            ),
        )
    half = params.mixed_precision == "fp16"
    note = "float16 has no fast arithmetic on CPUs, so float32" if half else "float32, as asked"
    return Plan(
        DevicePolicy(device, torch.float32, torch.float32),
        None,
        False,
        ("device cpu: no CUDA device was found", note),
    )


def _cuda_plan(device: torch.device, params: TrainingParams, batch: int) -> Plan:
    chosen = choose_policy(str(device))
    dtype = {
        "auto": chosen.dtype,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "no": torch.float32,
    }[params.mixed_precision]
    free, total = torch.cuda.mem_get_info(device)
    scale = (params.resolution / 1024) ** 2 * batch * (2 if dtype == torch.float32 else 1)
    needed = _WEIGHTS_BYTES + _ACTIVATION_BYTES_AT_1024 * scale
    checkpointing = needed > free
    gib = 1024**3
    why = "as asked" if not _is_auto(params) else "the fastest this device computes well in"
    return Plan(
        DevicePolicy(device, dtype, chosen.vae_dtype),
        None if dtype == torch.float32 else dtype,
        checkpointing,
        (
            f"device {torch.cuda.get_device_name(device)}: {free / gib:.1f} of "
            f"{total / gib:.1f} GiB are free",
            f"base in {str(dtype).removeprefix('torch.')}, LoRA in float32: {why}",
            f"gradient checkpointing {'on' if checkpointing else 'off'}: about "
            f"{needed / gib:.1f} GiB would be held without it",
        ),
    )


def _is_auto(params: TrainingParams) -> bool:
    return params.mixed_precision == "auto"
