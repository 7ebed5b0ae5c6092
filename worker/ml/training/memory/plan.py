"""Where and in what precision to train, and why: decided before anything is loaded."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from app.trainings.params import TrainingParams
from worker.ml.base_models.device import DevicePolicy, choose_policy
from worker.ml.training.errors import OutOfMemory
from worker.ml.training.memory.footprint import Demand, Footprint, choose, smaller_storage
from worker.ml.training.memory.ladder import MemoryPlan, Storage
from worker.ml.training.spec import BaseModelSpec

PLAIN_ATTENTION_LATENT_SIDE = 32
# Above this, latents and embeddings are read from the disk as they are needed.
HOST_CACHE_BYTES = 4 * 1024**3
_GIB = 1024**3


@dataclass(frozen=True)
class Plan:
    """How to run.

    Attributes:
        policy: device and number formats of the frozen networks.
        plain_attention: whether attention is computed step by step, not by the fused kernel.
        memory: what is traded for memory.
        smaller_storage: of the frozen weights, should memory run out.
        cache_placement: as the parameters ask.
        reasons: a sentence for each choice, for the log.
    """

    policy: DevicePolicy
    plain_attention: bool
    memory: MemoryPlan
    smaller_storage: Storage
    cache_placement: Literal["auto", "device", "host", "disk"]
    reasons: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        """Where the training runs."""
        return self.policy.device

    def cache_device(self, latent_bytes: int) -> torch.device | None:
        """Where latents and embeddings wait during the run; None: on the disk."""
        if self.cache_placement == "disk":
            return None
        if self.cache_placement == "device":
            return self.device
        if self.cache_placement == "auto" and latent_bytes > HOST_CACHE_BYTES:
            return None
        return torch.device("cpu")


def make_plan(
    params: TrainingParams, vae_scale_factor: int, footprint: Callable[[], Footprint]
) -> Plan:
    """Choose from the device found, its free memory, and what the parameters ask.

    Args:
        vae_scale_factor: of the base model, pixels per latent each way.
        footprint: of its UNet; asked where memory is counted.
    """
    if torch.cuda.is_available():
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        return _cuda_plan(torch.device("cuda", rank), params, vae_scale_factor, footprint())
    return _cpu_plan(params, params.resolution // vae_scale_factor)


def fit(
    params: TrainingParams,
    vae_scale_factor: int,
    footprint: Footprint,
    *,
    free_bytes: int,
    element: int,
    smaller: Storage,
) -> tuple[MemoryPlan, tuple[str, ...]]:
    """The first plan down the ladder that should fit, and why; the last one if none should.

    Args:
        element: bytes of a number of the arithmetic.
        smaller: how frozen weights are kept if it comes to that.
    """
    demand = Demand.of(params, footprint, vae_scale_factor, element=element)
    asked = params.gradient_checkpointing, params.base_storage
    try:
        choice = choose(free_bytes, demand, smaller, checkpointing=asked[0], storage=asked[1])
    except OutOfMemory as error:
        # An estimate: a little short on paper may be enough in fact, and memory that runs out is
        # noticed.
        least = MemoryPlan(
            checkpointing=asked[0] != "off",
            parts=params.batch_size,
            storage=smaller if asked[1] == "auto" else asked[1],
        )
        return least, (f"{error}; trying with that",)
    return choice.plan, choice.reasons


def footprint_of(base: BaseModelSpec) -> Footprint:
    """Of the base's UNet, from its configuration alone."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(
        base.location, subfolder="unet", revision=base.revision
    )
    with torch.device("meta"):
        return Footprint.of(UNet2DConditionModel.from_config(config))


def cpu_computes_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; others emulate it, slower than float32."""
    # torch has no public name for these questions.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _cpu_plan(params: TrainingParams, latent_side: int) -> Plan:
    device = torch.device("cpu")
    asked = params.mixed_precision
    half = asked == "bf16" or (asked == "auto" and cpu_computes_bfloat16())
    if half:
        why = "as asked" if asked == "bf16" else "this CPU has instructions for it"
        note = f"base in bfloat16, LoRA in float32: {why}"
    else:
        note = {
            "auto": "float32: this CPU would only emulate bfloat16",
            "fp16": "float16 has no fast arithmetic on CPUs, so float32",
            "no": "float32, as asked",
        }[asked]
    dtype = torch.bfloat16 if half else torch.float32
    return Plan(
        DevicePolicy(device, dtype, torch.float32),
        # In bfloat16 the fused kernel's backward takes a third of a small step; for large
        # pictures the plain one's memory, which grows with the square of the area, weighs more.
        plain_attention=half and latent_side <= PLAIN_ATTENTION_LATENT_SIDE,
        memory=MemoryPlan(
            checkpointing=params.gradient_checkpointing == "on", storage=_asked_storage(params)
        ),
        smaller_storage="int8",
        cache_placement=params.cache_placement,
        reasons=("device cpu: no CUDA device was found", note),
    )


def _asked_storage(params: TrainingParams) -> Storage:
    return "full" if params.base_storage == "auto" else params.base_storage


def _cuda_plan(
    device: torch.device, params: TrainingParams, vae_scale_factor: int, footprint: Footprint
) -> Plan:
    chosen = choose_policy(str(device))
    dtype = {
        "auto": chosen.dtype,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "no": torch.float32,
    }[params.mixed_precision]
    free, total = torch.cuda.mem_get_info(device)
    why = "as asked" if params.mixed_precision != "auto" else "the fastest it computes well in"
    smaller = smaller_storage(torch.cuda.get_device_capability(device))
    memory, why_so = fit(
        params,
        vae_scale_factor,
        footprint,
        free_bytes=free,
        element=dtype.itemsize,
        smaller=smaller,
    )
    return Plan(
        DevicePolicy(device, dtype, chosen.vae_dtype),
        plain_attention=False,
        memory=memory,
        smaller_storage=smaller,
        cache_placement=params.cache_placement,
        reasons=(
            f"device {torch.cuda.get_device_name(device)}: {free / _GIB:.1f} of "
            f"{total / _GIB:.1f} GiB are free",
            f"base in {str(dtype).removeprefix('torch.')}, LoRA in float32: {why}",
            *why_so,
        ),
    )
