"""Measures what a training step of the full SDXL UNet holds at its peak, with no GPU or weights.

    python -m bench.memory [--json bench/results/memory_sdxl.json]

The trainer's own layers, quantised weights and step run on the meta device, and every living
tensor is counted; see `live_bytes` for how far that is from a GPU. The coefficients in
worker/ml/training/memory/footprint.py are fitted on the file this writes; run both again when
the step changes.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from app.trainings.params import TrainingParams
from bench import sdxl
from bench.live_bytes import CudaAttention, LiveBytes, checkpoint
from worker.ml.training.batches import Batch
from worker.ml.training.learning.objective import NoiseSchedule
from worker.ml.training.network.adapters import add_adapters
from worker.ml.training.network.attention import choose_attention
from worker.ml.training.network.quantized import quantize
from worker.ml.training.step import Denoiser

RESULTS = Path(__file__).parent / "results" / "memory_sdxl.json"
Target = Literal["attention", "full"]
Storage = Literal["full", "int8"]


@dataclass(frozen=True)
class Setting:
    """One way to train."""

    resolution: int
    batch: int
    rank: int
    target: Target
    checkpointing: bool
    storage: Storage


@dataclass(frozen=True)
class Point:
    """What it takes.

    Attributes:
        base_bytes: of the frozen weights.
        trained: how many numbers are trained.
        kept_bytes: living between forward and backward.
        step_bytes: the most that lives at once during forward and backward beside frozen and
            trained weights; gradients are in it.
    """

    base_bytes: int
    trained: int
    kept_bytes: int
    step_bytes: int


def measure(
    config: dict[str, Any], setting: Setting, *, vae_scale_factor: int, pooled: int
) -> Point:
    """One step in bfloat16 on the meta device.

    Args:
        config: of the UNet.
        pooled: width of the pooled text vector.
    """
    params = TrainingParams(rank=setting.rank, target=setting.target, seed=1)
    unet = meta_unet(config)
    if setting.storage != "full":
        quantize(unet, setting.storage)
    add_adapters({"unet": unet}, params)
    choose_attention(unet, step_by_step=False, join=True)
    if setting.checkpointing:
        unet.enable_gradient_checkpointing(checkpoint)
    unet.train()
    tokens = _empty(setting.batch, sdxl.TOKENS, config["cross_attention_dim"]).bfloat16()
    vectors = _empty(setting.batch, pooled).bfloat16()
    denoiser = Denoiser(
        unet,
        lambda _: (tokens, vectors),
        NoiseSchedule.of(sdxl.SCHEDULER, params).to(torch.device("meta")),
        torch.bfloat16,
    )
    side = setting.resolution // vae_scale_factor
    batch = Batch(
        latents=_empty(setting.batch, 4, side, side),
        noise=_empty(setting.batch, 4, side, side),
        seen_noise=_empty(setting.batch, 4, side, side),
        timesteps=_empty(setting.batch).long(),
        time_ids=_empty(setting.batch, 6),
        texts=[""] * setting.batch,
        masks=None,
        weights=_empty(setting.batch),
    )
    tensors = [*unet.parameters(), *unet.buffers()]
    with LiveBytes() as live, CudaAttention():
        loss = denoiser.errors(batch, params).sum()
        kept = live.now
        torch.autograd.backward([loss])
    return Point(
        base_bytes=sum(tensor.nbytes for tensor in tensors if not tensor.requires_grad),
        trained=sum(tensor.numel() for tensor in tensors if tensor.requires_grad),
        kept_bytes=kept,
        step_bytes=live.peak,
    )


def meta_unet(config: dict[str, Any]) -> Any:
    """A UNet of this shape in bfloat16, without memory."""
    with torch.device("meta"):
        return UNet2DConditionModel(**config).bfloat16()


def settings() -> list[Setting]:
    """All that are measured."""
    targets: tuple[Target, ...] = ("attention", "full")
    grid: list[tuple[Storage, tuple[int, ...]]] = [("full", (1, 2, 4, 8)), ("int8", (1, 4))]
    return [
        Setting(resolution, batch, rank, target, checkpointing, storage)
        for storage, batches in grid
        for resolution, batch, rank, target, checkpointing in product(
            (512, 768, 1024), batches, (16, 32), targets, (False, True)
        )
    ]


def main() -> None:
    """Measure all and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULTS)
    args = parser.parse_args()
    points: list[dict[str, Any]] = []
    for setting in settings():
        point = measure(
            sdxl.UNET, setting, vae_scale_factor=sdxl.VAE_SCALE_FACTOR, pooled=sdxl.POOLED
        )
        points.append({**asdict(setting), **asdict(point)})
        print(json.dumps(points[-1]), flush=True)
    report = {
        "about": "bytes of one bfloat16 training step of SDXL's UNet, counted on the meta device",
        "versions": {name: version(name) for name in ("torch", "diffusers")},
        "points": points,
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    # A point a line, so that a change of the step is read as a change of lines.
    rows = ",\n  ".join(json.dumps(point) for point in report.pop("points"))
    head = json.dumps(report, indent=1).removesuffix("\n}")
    args.json.write_text(f'{head},\n "points": [\n  {rows}\n ]\n}}\n')


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


if __name__ == "__main__":
    main()
