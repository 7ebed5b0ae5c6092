"""A pipeline for each base model in use, each with its adapter bank; the least used go first."""

import gc
import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from worker.ml.base_models.device import DevicePolicy
from worker.ml.base_models.hashing import hash_model_files
from worker.ml.base_models.load import BaseModel, load_base_model
from worker.ml.inference.bank import AdapterBank, OnLoad
from worker.ml.inference.memory import BaseSize, MemoryPlan, plan_memory
from worker.ml.inference.preview import LatentColours, fit_colours
from worker.ml.inference.residency import ENCODERS, Residency, weight_bytes
from worker.ml.inference.spec import BaseModelSpec
from worker.ml.stages import Stage, unmeasured

log = logging.getLogger(__name__)


@dataclass
class PipelineHandle:
    """One loaded base model, ready to draw.

    Attributes:
        pipeline: a StableDiffusionXLPipeline over the base's networks.
        bank: the only one to change the networks' weights.
        residency: to be asked for a network before it is used or written to.
        stage: measures the parts of drawing.
    """

    spec: BaseModelSpec
    base: BaseModel
    pipeline: Any
    bank: AdapterBank
    policy: DevicePolicy
    residency: Residency
    stage: Stage = unmeasured

    @cached_property
    def base_sha256(self) -> str:
        """Hash of the base's weight files, for receipts."""
        return hash_model_files(self.base.sources)

    @cached_property
    def colours(self) -> LatentColours:
        """What its latents look like."""
        factor = self.pipeline.vae_scale_factor
        self.residency.bring("vae")
        return fit_colours(self.base.vae, self.policy.device, factor)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the networks' weights."""
        return self.size.weight_bytes

    @cached_property
    def size(self) -> BaseSize:
        """What decides how much memory drawing takes."""
        networks = self.base.networks()
        unet, vae = self.base.unet, self.base.vae
        return BaseSize(
            unet_bytes=weight_bytes(unet),
            encoder_bytes=sum(weight_bytes(networks[name]) for name in ENCODERS),
            vae_bytes=weight_bytes(vae),
            unet_width=unet.config.block_out_channels[0],
            vae_width=vae.config.block_out_channels[0],
            itemsize=unet.dtype.itemsize,
            vae_itemsize=vae.dtype.itemsize,
            vae_scale_factor=self.pipeline.vae_scale_factor,
            vae_tile_px=vae.tile_sample_min_size,
        )

    def plan(self, width: int, height: int, *, guided: bool, most: int = 8) -> MemoryPlan:
        """How to draw pictures of a size in the memory that is free now."""
        available = _free_bytes(self.policy.device)
        if available is not None:
            available += self.residency.nbytes
        return plan_memory(
            self.size, available, width=width, height=height, guided=guided, most=most
        )

    def plan_for_native(self) -> MemoryPlan:
        """How to draw one guided picture of the size that the base was made for."""
        side = self.base.unet.config.sample_size * self.pipeline.vae_scale_factor
        return self.plan(side, side, guided=True, most=1)

    def settle(self, plan: MemoryPlan) -> None:
        """Draw as planned from now on."""
        vae = self.base.vae
        if (plan.placement, plan.vae_tiling) != (self.residency.placement, vae.use_tiling):
            log.info("%s: %s", self.spec.id, plan.why)
        self.residency.settle(plan.placement)
        vae.use_tiling = plan.vae_tiling


class PipelineCache:
    """Loads pipelines on demand and keeps the most recently used ones."""

    def __init__(
        self,
        policy: DevicePolicy,
        *,
        max_pipelines: int = 2,
        max_bytes: int = 64 * 1024**3,
        bank_bytes: int = 4 * 1024**3,
        stage: Stage = unmeasured,
        on_bank_load: OnLoad | None = None,
    ) -> None:
        """Start empty.

        Args:
            max_pipelines: how many base models may be loaded at once, at least 1.
            max_bytes: ceiling on their weights together, in host memory and on the device; the
                newest stays even when over it.
            bank_bytes: ceiling on the parsed LoRAs kept for each.
            stage: measures the parts of drawing.
            on_bank_load: see `AdapterBank`.
        """
        self._policy = policy
        self._max_pipelines = max_pipelines
        self._max_bytes = max_bytes
        self._bank_bytes = bank_bytes
        self._stage = stage
        self._on_bank_load = on_bank_load
        self._handles: OrderedDict[BaseModelSpec, PipelineHandle] = OrderedDict()

    def held(self) -> list[str]:
        """Ids of the base models that are loaded, the least recently used first."""
        return [spec.id for spec in self._handles]

    def find(self, base_model_id: str) -> PipelineHandle | None:
        """The loaded pipeline of a base model; None while it is not loaded."""
        return next(
            (handle for spec, handle in self._handles.items() if spec.id == base_model_id), None
        )

    def get(self, spec: BaseModelSpec) -> PipelineHandle:
        """The pipeline of a base model, loaded now unless it is kept.

        Others go, the least recently used first, while they are too many or too large, or while
        this one cannot be wholly on the device beside them.

        Raises:
            BaseModelUnavailable: it cannot be loaded.
        """
        if spec in self._handles:
            self._handles.move_to_end(spec)
            return self._handles[spec]
        # Room is made before loading, or both would be in memory at once.
        self._shrink(self._max_pipelines - 1)
        handle = self._handles[spec] = open_pipeline(
            spec, self._policy, bank_bytes=self._bank_bytes, on_bank_load=self._on_bank_load
        )
        handle.stage = self._stage
        while len(self._handles) > 1 and self._bytes() > self._max_bytes:
            self._shrink(len(self._handles) - 1)
        while len(self._handles) > 1 and handle.residency.placement != "resident":
            self._shrink(len(self._handles) - 1)
            handle.settle(handle.plan_for_native())
        return handle

    def _bytes(self) -> int:
        return sum(handle.nbytes for handle in self._handles.values())

    def _shrink(self, count: int) -> None:
        dropped = False
        while len(self._handles) > count:
            self._handles.popitem(last=False)
            dropped = True
        if dropped:
            # Pipelines refer to themselves, so memory comes back only by a collection.
            gc.collect()
            if self._policy.device.type == "cuda":
                torch.cuda.empty_cache()


def open_pipeline(
    spec: BaseModelSpec,
    policy: DevicePolicy,
    *,
    bank_bytes: int = 4 * 1024**3,
    on_bank_load: OnLoad | None = None,
) -> PipelineHandle:
    """Load a base model and put a diffusers pipeline and an adapter bank over it.

    It is planned for one picture of the base's own size; `PipelineHandle.settle` plans anew.

    Raises:
        BaseModelUnavailable: it cannot be loaded.
    """
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
        StableDiffusionXLPipeline,
    )

    from worker.ml.inference.schedulers import make_scheduler

    # Whether all of it fits the device is known only when its size is.
    host = replace(policy, device=torch.device("cpu"))
    base = load_base_model(spec.location, spec.revision, host, variant=spec.variant)
    pipeline = StableDiffusionXLPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        text_encoder_2=base.text_encoder_2,
        tokenizer=base.tokenizer,
        tokenizer_2=base.tokenizer_2,
        unet=base.unet,
        # A placeholder: each generation sets its own.
        scheduler=make_scheduler("euler", base.scheduler_config),
        force_zeros_for_empty_prompt=base.force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    bank = AdapterBank(base.networks(), capacity_bytes=bank_bytes, on_load=on_bank_load)
    residency = Residency(base.networks(), policy.device)
    handle = PipelineHandle(spec, base, pipeline, bank, policy, residency)
    handle.settle(handle.plan_for_native())
    return handle


def _free_bytes(device: torch.device) -> int | None:
    """Bytes of a card that this process could still fill; None where the device is the host."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    # What the allocator holds and nothing lives in.
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + idle
