"""What a training will hold on its device at the peak, and the first plan that fits what is free.

Four things add up: the frozen weights; the trained ones with what the optimizer keeps; what a step
makes and keeps between forward and backward; and what CUDA's libraries take for themselves. Only
the third is not plain arithmetic. It was counted for SDXL's UNet (`bench/memory.py`, which wrote
`bench/results/memory_sdxl.json`) and is linear, to within the error said below, in

* trained numbers: their half-precision copies and gradients,
* pictures: what belongs to the text,
* latents of all pictures, with and without × rank.

Of another UNet than SDXL's the last two are scaled by its width, see `Footprint.of`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from app.trainings.params import Optimizer, TrainingParams
from worker.ml.lora_files.targets import TARGETS
from worker.ml.training.errors import OutOfMemory
from worker.ml.training.memory.ladder import MemoryPlan, Storage
from worker.ml.training.network.quantized import MIN_VALUES

Target = Literal["attention", "full", "conv"]
GIB = 1024**3

# What cuBLAS and cuDNN load and work in. The CUDA context itself is there before free memory is
# asked for, so it is not among what is needed. A guess, from what such trainings show.
LIBRARIES_BYTES = GIB // 2
# The allocator hands out memory in blocks, so it holds more than what lives in them. A guess too.
FRAGMENTATION = 1.05
_GRADIENT_BYTES = 4
# Bytes a trained number costs the optimizer.
_OPTIMIZER_BYTES: Mapping[Optimizer, float] = {
    "adamw": 8,
    "adamw8bit": 2.1,
    # Rows and columns only.
    "adafactor": 0.5,
    # Two moments, and two more numbers that the estimate of the rate is made from.
    "prodigy": 16,
    "lion": 4,
    "adamw_schedulefree": 8,
}


@dataclass(frozen=True)
class Coefficients:
    """Bytes of a step at the moments that may be its peak.

    Attributes:
        per_trained, per_picture, per_latent, per_latent_rank: when backward begins.
        per_latent_at_end: when it ends, beside the gradients, which are all there by then.
    """

    per_trained: float
    per_picture: float
    per_latent: float
    per_latent_rank: float
    per_latent_at_end: float

    def step_bytes(
        self,
        trained: int,
        pictures: int,
        latents: int,
        rank: int,
        *,
        width: float = 1.0,
        opened_bytes: int = 0,
    ) -> float:
        """What lives at once beside frozen and trained weights.

        Args:
            latents: of one picture, height × width of the latent.
            width: what the UNet keeps for each latent, relative to SDXL's.
            opened_bytes: of the largest quantised weight while it is opened. That is in the
                middle of the UNet, where half of the gradients are there.
        """
        every = pictures * latents
        begins = self.per_trained * trained + width * (
            self.per_picture * pictures + every * (self.per_latent + self.per_latent_rank * rank)
        )
        late = width * every * self.per_latent_at_end
        middle = opened_bytes + _GRADIENT_BYTES / 2 * trained + late
        return max(begins, middle, _GRADIENT_BYTES * trained + late)


# By target (`conv` is taken as `full`), whether activations are computed twice, and whether frozen
# weights are quantised. Fitted by bench/fit_memory.py on bench/results/memory_sdxl.json, of whose
# points the worst is off by 5.7%.
COEFFICIENTS: Mapping[tuple[Literal["attention", "full"], bool, bool], Coefficients] = {
    ("attention", False, False): Coefficients(2.0032, 2.5988e07, 3.6878e05, 76.831, 0),
    ("attention", False, True): Coefficients(1.6064, 2.5984e07, 3.283e05, 76.821, 0),
    ("attention", True, False): Coefficients(2.1886e-07, 4352.4, 33440, 0, 14023),
    ("attention", True, True): Coefficients(0.012382, 2.0844e05, 30905, 3.0348, 14023),
    ("full", False, False): Coefficients(2.0017, 2.5988e07, 4.3822e05, 108.33, 0),
    ("full", False, True): Coefficients(1.7862, 2.5984e07, 3.9774e05, 108.32, 0),
    ("full", True, False): Coefficients(0.032724, 4352.1, 38560, 6.5, 14836),
    ("full", True, True): Coefficients(0.044293, 2.0843e05, 36665, 9.5347, 14836),
}


# See `Footprint.of`.
_KEPT, _CHECKPOINTED = 2.0, 0.19
_SDXL_KEPT, _SDXL_CHECKPOINTED = 15760.0, 4176.0


@dataclass(frozen=True)
class Footprint:
    """A UNet's size.

    Attributes:
        parameters: how many numbers it has.
        quantizable: how many of them are in linears and convolutions large enough to be made small.
        rows: how many outputs those have, each with a scale.
        largest: how many numbers the largest of them has.
        sides: inputs and outputs of all adapted modules together, by target: times the rank, that
            is how many numbers a LoRA has.
        width_kept, width_checkpointed: what a step holds for each latent, relative to SDXL's UNet,
            when activations are kept and when they are computed twice.
    """

    parameters: int
    quantizable: int
    rows: int
    largest: int
    sides: Mapping[str, int]
    width_kept: float
    width_checkpointed: float

    @classmethod
    def of(cls, unet: nn.Module) -> "Footprint":
        """Of a UNet without adapters; one on the meta device will do.

        Widths follow a rule: a resnet counts its channels, a transformer layer `weight` times its
        channels, each over the area of one latent. With the weights 2 for kept activations and
        0.19 for inputs of blocks alone, four UNets like SDXL's, narrower or with fewer layers, are
        met within 1%, and emoji-64, a thousandth of its size, within 30%.
        """
        config: Mapping[str, Any] = unet.config  # type: ignore[assignment]
        layers = {
            name: module
            for name, module in unet.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        }
        large = [each for each in layers.values() if each.weight.numel() >= MIN_VALUES]
        return cls(
            parameters=sum(parameter.numel() for parameter in unet.parameters()),
            quantizable=sum(each.weight.numel() for each in large),
            rows=sum(each.weight.shape[0] for each in large),
            largest=max(each.weight.numel() for each in large),
            sides={
                target: sum(
                    each.weight.shape[0] + each.weight[0].numel()
                    for name, each in layers.items()
                    if name.endswith(endings)
                )
                for target, endings in TARGETS.items()
            },
            width_kept=_channels(config, _KEPT) / _SDXL_KEPT,
            width_checkpointed=_channels(config, _CHECKPOINTED) / _SDXL_CHECKPOINTED,
        )

    def base_bytes(self, storage: Storage, element: int) -> int:
        """Of the frozen weights; `element` is that of the arithmetic, in bytes."""
        if storage == "full":
            return self.parameters * element
        return self.quantizable + (self.parameters - self.quantizable + self.rows) * element

    def opened_bytes(self, storage: Storage) -> int:
        """Of the largest weight while it is opened: its codes, widened, and their product."""
        return 0 if storage == "full" else self.largest * 2 * 2


# Counted on the architecture (bench/sdxl.py).
SDXL = Footprint(
    parameters=2_567_463_684,
    quantizable=2_565_880_320,
    rows=1_494_404,
    largest=29_491_200,
    sides={"attention": 1_451_520, "full": 2_659_840, "conv": 3_074_240},
    width_kept=1.0,
    width_checkpointed=1.0,
)


@dataclass(frozen=True)
class Demand:
    """What a training asks of its device.

    Attributes:
        latents: of one picture, height × width.
        batch_size: pictures a device sees at once.
        rank: the largest of the adapters'.
        element: bytes a number of the arithmetic: 2 or 4.
        state_bytes: for each trained number, beside it and its gradient.
        cache_bytes: latents and embeddings that wait on the device.
    """

    base: Footprint
    latents: int
    batch_size: int
    rank: int
    target: Target
    trained: int
    element: int = 2
    state_bytes: float = 8.0
    cache_bytes: int = 0

    @classmethod
    def of(
        cls,
        params: TrainingParams,
        base: Footprint,
        vae_scale_factor: int,
        *,
        element: int = 2,
        cache_bytes: int = 0,
    ) -> "Demand":
        """Of a run's parameters; without text encoders, whose training adds to it.

        Trained numbers are counted as a LoRA's (LoHa has twice as many; DoRA has few more and
        LoKr fewer), all modules at the largest rank.
        """
        asked = [params.rank, params.conv_rank, *(block.rank for block in params.blocks)]
        rank = max(each for each in asked if each is not None)
        doubled = 2 if params.variant == "loha" else 1
        average = 4 if params.ema_decay is not None else 0
        return cls(
            base=base,
            latents=(params.resolution // vae_scale_factor) ** 2,
            batch_size=params.batch_size,
            rank=rank,
            target=params.target,
            trained=base.sides[params.target] * rank * doubled,
            element=element,
            state_bytes=_OPTIMIZER_BYTES[params.optimizer] + average,
            cache_bytes=cache_bytes,
        )

    def bytes_under(self, plan: MemoryPlan) -> int:
        """What is held at the peak of a step under a plan, CUDA's libraries included."""
        pictures = -(-self.batch_size // plan.parts)
        found = COEFFICIENTS[
            "attention" if self.target == "attention" else "full",
            plan.checkpointing,
            plan.storage != "full",
        ]
        # Twice the element is twice the bytes at most: norms compute in four bytes in any case.
        width = self.base.width_checkpointed if plan.checkpointing else self.base.width_kept
        step = found.step_bytes(
            self.trained,
            pictures,
            self.latents,
            self.rank,
            width=width,
            opened_bytes=self.base.opened_bytes(plan.storage),
        )
        step *= self.element / 2
        return round(
            self.base.base_bytes(plan.storage, self.element)
            + self.trained * (4 + self.state_bytes)
            + step * FRAGMENTATION
            + self.cache_bytes
            + LIBRARIES_BYTES
        )


@dataclass(frozen=True)
class Choice:
    """A plan that fits, what it needs at the peak, and a sentence for each thing given up."""

    plan: MemoryPlan
    needed_bytes: int
    reasons: tuple[str, ...]


def choose(
    free_bytes: int,
    demand: Demand,
    smaller: Storage,
    *,
    checkpointing: Literal["auto", "on", "off"] = "auto",
    storage: Literal["auto"] | Storage = "auto",
) -> Choice:
    """The first plan down the ladder that fits; what was asked for is neither added nor dropped.

    Args:
        smaller: how frozen weights are kept if it comes to that; see `smaller_storage`.

    Raises:
        OutOfMemory: none fits; the message says what the least one needs and what is free.
    """
    reasons: list[str] = []
    before: tuple[MemoryPlan, int] | None = None
    for plan in _rungs(demand.batch_size, smaller, checkpointing, storage):
        needed = demand.bytes_under(plan)
        if before is None:
            reasons.append(f"{describe(plan, demand)}: {_gib(needed)} needed at the peak")
        else:
            reasons.append(
                f"{_gib(before[1])} needed, {_gib(free_bytes)} free, so "
                f"{describe(plan, demand)}: {_gib(needed)} needed"
            )
        if needed <= free_bytes:
            return Choice(plan, needed, tuple(reasons))
        before = plan, needed
    assert before is not None, "the ladder has a first rung"
    least, needed = before
    raise OutOfMemory(
        f"training at {demand.latents} latents a picture with rank {demand.rank} needs about "
        f"{_gib(needed)} even with {describe(least, demand)}; {_gib(free_bytes)} are free"
    )


def smaller_storage(capability: tuple[int, int]) -> Storage:
    """How frozen weights are made small on a CUDA device of this compute capability.

    Ada and Hopper (8.9 and above) read float8 themselves; on others int8 opens no slower.
    """
    return "fp8" if capability >= (8, 9) else "int8"


def describe(plan: MemoryPlan, demand: Demand) -> str:
    """A plan in words."""
    pictures = -(-demand.batch_size // plan.parts)
    return ", ".join(
        (
            f"activations {'computed twice' if plan.checkpointing else 'kept'}",
            f"{pictures} of {demand.batch_size} pictures at once",
            "frozen weights as they are"
            if plan.storage == "full"
            else f"frozen weights in {plan.storage}",
        )
    )


def _rungs(
    batch_size: int,
    smaller: Storage,
    checkpointing: Literal["auto", "on", "off"],
    storage: Literal["auto"] | Storage,
) -> list[MemoryPlan]:
    """The ladder from its first rung, without what the parameters forbid."""
    first = MemoryPlan(
        checkpointing=checkpointing == "on", storage="full" if storage == "auto" else storage
    )
    found = [first]
    while (following := found[-1].next_rung(batch_size, smaller)) is not None:
        found.append(following[0])
    if checkpointing == "off":
        found = [replace(plan, checkpointing=False) for plan in found]
    if storage == "full":
        found = [plan for plan in found if plan.storage == "full"]
    return list(dict.fromkeys(found))


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


def _channels(config: Mapping[str, Any], weight: float) -> float:
    """Channels that layers work on, for each latent; transformer layers count `weight` times."""
    widths = config["block_out_channels"]
    deepest = len(widths) - 1
    depths = config["transformer_layers_per_block"]
    depths = [depths] * len(widths) if isinstance(depths, int) else list(depths)
    layers = config["layers_per_block"]
    # The middle has two resnets and one transformer.
    found = widths[-1] / 4**deepest * (2 + weight * depths[-1])
    for level, width in enumerate(widths):
        down = depths[level] if "CrossAttn" in config["down_block_types"][level] else 0
        up = depths[level] if "CrossAttn" in config["up_block_types"][deepest - level] else 0
        counted = layers * (1 + weight * down) + (layers + 1) * (1 + weight * up)
        found += width / 4**level * counted
    return float(found)
