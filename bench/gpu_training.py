"""The trainer's own step on the full SDXL architecture: time, share of the device's peak, memory.

    python -m bench.gpu_training [--toy] [--steps N] [--json FILE]

Weights are random, which costs a step nothing. Latents and text embeddings are made up too, and
stand for cached ones in our loop and in the straight one alike. Without a CUDA device, or with
`--toy`, a UNet as small as emoji-64's is trained, which proves only that everything runs.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from app.trainings.params import TrainingParams
from bench import sdxl, straight_loop
from bench.settings import BASE, REPOSITORY, Settings
from bench.speeds import matmul_flops, wait
from worker.ml.training.batches import Batch, BatchMaker
from worker.ml.training.data.conditioning import CachedText
from worker.ml.training.data.latents import LatentImage
from worker.ml.training.data.text import TextEmbedding
from worker.ml.training.learning.objective import NoiseSchedule
from worker.ml.training.learning.optimisers import make_optimizer
from worker.ml.training.memory.footprint import GIB, Demand, Footprint
from worker.ml.training.memory.ladder import MemoryPlan
from worker.ml.training.memory.plan import Plan, make_plan
from worker.ml.training.network.adapters import add_adapters
from worker.ml.training.network.attention import choose_attention
from worker.ml.training.network.quantized import quantize
from worker.ml.training.parallel import Group
from worker.ml.training.spec import TrainingSpec
from worker.ml.training.step import Denoiser, Stepper

WARM_UP = 5
RANK = 32
# Of a LoRA step on attention at rank 32 and 1024², forward and backward once: 2 · multiply-adds.
SDXL_FLOPS_PER_IMAGE = 14.62e12
CAPTION = "a picture"


@dataclass(frozen=True)
class Scale:
    """What is trained: the full architecture, or the toy."""

    name: str
    config: dict[str, Any]
    resolution: int
    vae_scale_factor: int
    pooled: int


@dataclass(frozen=True)
class Case:
    """One measurement."""

    loop: str
    batch: int
    memory: MemoryPlan
    cap_gib: float | None = None


@dataclass(frozen=True)
class Figures:
    """What it showed; None where memory ran out, or there is no CUDA."""

    ms_per_image: float | None
    peak_share: float | None
    peak_gib: float | None
    foretold_gib: float
    error: str | None = None


class Bench:
    """All cases on one device."""

    def __init__(self, scale: Scale, steps: int) -> None:
        self.scale = scale
        self.steps = steps
        self.params = TrainingParams(
            rank=RANK,
            resolution=scale.resolution,
            seed=1,
            lr_scheduler="constant",
            caption_dropout_rate=0,
            mixed_precision="bf16" if torch.cuda.is_available() else "auto",
        )
        with torch.device("meta"):
            self.footprint = Footprint.of(UNet2DConditionModel(**scale.config))
        self.plan: Plan = make_plan(self.params, scale.vae_scale_factor, lambda: self.footprint)
        self.device = self.plan.device
        self.matmul_flops = matmul_flops(self.device, self.plan.policy.dtype)
        self.flops_per_image = (
            SDXL_FLOPS_PER_IMAGE if scale.name == "sdxl" else self._counted_flops()
        )

    def run(self, case: Case) -> Figures:
        """Measure one case; memory that runs out is told, not raised."""
        demand = Demand.of(
            self.params.model_copy(update={"batch_size": case.batch}),
            self.footprint,
            self.scale.vae_scale_factor,
            element=self.plan.policy.dtype.itemsize,
        )
        foretold = demand.bytes_under(case.memory) / GIB
        self._clear(case.cap_gib)
        try:
            seconds = self._ours(case) if case.loop == "ours" else self._straight(case)
        except torch.OutOfMemoryError as error:
            return Figures(None, None, None, foretold, str(error).partition(". ")[0])
        finally:
            peak = self._peak_gib()
            self._clear(None)
        per_image = seconds / (self.steps * case.batch)
        share = self.flops_per_image / per_image / self.matmul_flops
        return Figures(per_image * 1000, share, peak, foretold)

    def _ours(self, case: Case) -> float:
        """The trainer's step, batches made as it makes them; seconds of the measured steps."""
        # Weights are made small where there is room for all of them.
        small = case.memory.storage != "full"
        unet = self._unet(torch.device("cpu") if small else self.device)
        step = self._trainer(unet, case)
        for number in range(WARM_UP):
            step(number)
        wait(self.device)
        started = time.perf_counter()
        for number in range(WARM_UP, WARM_UP + self.steps):
            step(number)
        wait(self.device)
        return time.perf_counter() - started

    def _trainer(self, unet: Any, case: Case) -> Callable[[int], None]:
        """One step of ours as a function of its number, put together as `load_trainee` does it."""
        params = self.params.model_copy(update={"batch_size": case.batch})
        spec = _spec(params, self.scale, case.batch)
        if case.memory.storage != "full":
            quantize(unet, case.memory.storage)
            unet.to(self.device)
        adapters = add_adapters({"unet": unet}, params)
        if case.memory.checkpointing:
            unet.enable_gradient_checkpointing()
        unet.train()
        groups = adapters.groups(params)
        optimizer = make_optimizer(groups, params, self.device)
        schedule = NoiseSchedule.of(sdxl.SCHEDULER, params).to(self.device)
        latents, states, pooled, time_ids = self._inputs(case.batch)
        texts: Any = {CAPTION: TextEmbedding(states[0], pooled[0])}
        images: Any = [
            LatentImage(latents[n : n + 1], time_ids[n : n + 1], None) for n in range(case.batch)
        ]
        dtype = self.plan.policy.dtype
        choose_attention(unet, step_by_step=self.plan.plain_attention, join=True)
        denoiser = Denoiser(unet, CachedText(texts, self.device, dtype), schedule, dtype)
        ordered = [parameter for group in groups for parameter in group.parameters]
        group = Group()
        scaler = torch.amp.GradScaler(self.device.type, enabled=False)
        stepper = Stepper(denoiser, params, ordered, optimizer, lambda _: 1.0, scaler, group)
        maker = BatchMaker(
            spec,
            images,
            [[CAPTION]] * case.batch,
            timesteps=schedule.timesteps,
            device=self.device,
            group=group,
        )

        def step(number: int) -> None:
            made = maker.make(list(range(case.batch)), number, 0)
            batches: list[Batch] = [] if made is None else [made]
            loss = stepper.gradients(batches, case.batch, case.memory.parts, number)
            stepper.apply(number, loss)

        return step

    def _straight(self, case: Case) -> float:
        """The straight loop; seconds of the measured steps, each of which it waits for."""
        half = self.plan.policy.dtype == torch.bfloat16
        accelerator = Accelerator(
            cpu=self.device.type == "cpu", mixed_precision="bf16" if half else "no"
        )
        settings = Settings(
            resolution=self.scale.resolution,
            batch_size=case.batch,
            rank=RANK,
            steps=WARM_UP + self.steps,
            checkpointing=case.memory.checkpointing,
        )
        dtype = self.plan.policy.dtype
        inputs = [each.to(dtype) for each in self._inputs(case.batch * 4)]
        loader: Any = DataLoader(TensorDataset(*inputs), batch_size=case.batch, shuffle=True)
        scheduler = DDPMScheduler(**sdxl.SCHEDULER)
        times: dict[int, float] = {}

        def on_step(number: int) -> None:
            times[number] = time.perf_counter()

        straight_loop.train(
            self._unet(self.device), scheduler, loader, tuple, settings, accelerator, dtype, on_step
        )
        return times[settings.steps] - times[WARM_UP]

    def _inputs(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Made-up latents (N, 4, h, w), token states, pooled vectors and time ids, on the CPU."""
        side = self.scale.resolution // self.scale.vae_scale_factor
        width, pixels = self.scale.config["cross_attention_dim"], self.scale.resolution
        return (
            torch.randn(count, 4, side, side),
            torch.randn(count, sdxl.TOKENS, width, dtype=self.plan.policy.dtype),
            torch.randn(count, self.scale.pooled, dtype=self.plan.policy.dtype),
            torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]] * count),
        )

    def _unet(self, device: torch.device) -> Any:
        before = torch.get_default_dtype()
        # Made in its own precision: float32 first would not fit small cards.
        torch.set_default_dtype(self.plan.policy.dtype)
        try:
            with device:
                return UNet2DConditionModel(**self.scale.config)
        finally:
            torch.set_default_dtype(before)

    def _counted_flops(self) -> float:
        step = self._trainer(self._unet(self.device), Case("ours", 1, MemoryPlan()))
        with FlopCounterMode(display=False) as counter:
            step(0)
        return float(counter.get_total_flops())

    def _peak_gib(self) -> float | None:
        if self.device.type != "cuda":
            return None
        return torch.cuda.max_memory_reserved() / GIB

    def _clear(self, cap_gib: float | None) -> None:
        gc.collect()
        if self.device.type != "cuda":
            return
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        total = torch.cuda.mem_get_info()[1]
        share = 1.0 if cap_gib is None else cap_gib * GIB / total
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))


def cases(capability: tuple[int, int] | None) -> list[Case]:
    """Both loops at each batch, with and without checkpointing; then ours under two caps."""
    found = [
        Case(loop, batch, MemoryPlan(checkpointing=checkpointing))
        for checkpointing in (False, True)
        for batch in (1, 2, 4, 8)
        for loop in ("straight", "ours")
    ]
    small = MemoryPlan(True, storage="fp8" if (capability or (0, 0)) >= (8, 9) else "int8")
    return [
        *found,
        Case("ours", 1, MemoryPlan(True), cap_gib=8.0),
        Case("ours", 1, small, cap_gib=6.0),
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--toy", action="store_true", help="the small UNet whatever there is")
    parser.add_argument("--steps", type=int, default=20, help="measured steps of each case")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    toy = args.toy or not cuda
    if toy:
        print("toy size: a UNet as small as emoji-64's, whose figures say nothing of SDXL's")
    bench = Bench(_toy() if toy else _full(), args.steps)
    device = torch.cuda.get_device_name() if cuda else "cpu"
    print(
        f"{device}, {bench.plan.policy.dtype}: {bench.matmul_flops / 1e12:.3g} TFLOP/s in a large "
        f"product; a step takes {bench.flops_per_image / 1e12:.4g} TFLOP an image"
    )
    print(
        f"{'loop':9}{'batch':>6}  {'memory':26}{'cap GiB':>8}{'ms/image':>10}{'of peak':>9}"
        f"{'peak GiB':>10}{'foretold':>10}"
    )
    rows: list[dict[str, Any]] = []
    for case in cases(torch.cuda.get_device_capability() if cuda else None):
        if not cuda:
            # A cap means nothing where memory is not CUDA's.
            case = replace(case, cap_gib=None)
        found = bench.run(case)
        rows.append({**asdict(case), **asdict(found)})
        print(_row(case, found), flush=True)
    report = {
        "scale": bench.scale.name,
        "resolution": bench.scale.resolution,
        "rank": RANK,
        "target": "attention",
        "device": device,
        "dtype": str(bench.plan.policy.dtype),
        "cuda": torch.version.cuda,
        "versions": {name: version(name) for name in ("torch", "diffusers", "peft", "accelerate")},
        "matmul_tflops": bench.matmul_flops / 1e12,
        "tflop_per_image": bench.flops_per_image / 1e12,
        "steps": args.steps,
        "rows": rows,
    }
    file = args.json
    if file is None and not toy:
        results = REPOSITORY / "bench" / "results"
        file = results / f"gpu_training_{device.lower().replace(' ', '-')}.json"
    if file is not None:
        file.write_text(json.dumps(report, indent=1) + "\n")


def _row(case: Case, found: Figures) -> str:
    memory = "checkpointed" if case.memory.checkpointing else "kept"
    if case.memory.storage != "full":
        memory += f", {case.memory.storage} base"
    cap = "" if case.cap_gib is None else f"{case.cap_gib:.0f}"
    head = f"{case.loop:9}{case.batch:6}  {memory:26}{cap:>8}"
    if found.ms_per_image is None or found.peak_share is None:
        return f"{head}  {found.error}; {found.foretold_gib:.1f} GiB foretold"
    peak = "" if found.peak_gib is None else f"{found.peak_gib:.2f}"
    return (
        f"{head}{found.ms_per_image:10.1f}{found.peak_share:9.1%}{peak:>10}"
        f"{found.foretold_gib:10.2f}"
    )


def _full() -> Scale:
    return Scale("sdxl", sdxl.UNET, 1024, sdxl.VAE_SCALE_FACTOR, sdxl.POOLED)


def _toy() -> Scale:
    config = json.loads((BASE / "unet" / "config.json").read_text())
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return Scale("toy", config, 64, 4, pooled)


def _spec(params: TrainingParams, scale: Scale, pictures: int) -> TrainingSpec:
    """A spec whose pictures are never read: their latents are made up."""
    side = scale.resolution
    return TrainingSpec.model_validate(
        {
            "format": "lorawright.training/1",
            "name": "bench",
            "params": params,
            "base_model": {
                "id": scale.name,
                "location": scale.name,
                "architecture": scale.name,
                "native_resolution": side,
                "vae_scale_factor": scale.vae_scale_factor,
            },
            "images": [
                {
                    "path": str(number),
                    "sha256": "0" * 64,
                    "width": side,
                    "height": side,
                    "caption": CAPTION,
                }
                for number in range(pictures)
            ],
        }
    )


if __name__ == "__main__":
    main()
