"""A pipeline for each base model in use, each with its adapter bank; the least used go first."""

import gc
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from worker.ml.base_models.device import DevicePolicy
from worker.ml.base_models.hashing import hash_model_files
from worker.ml.base_models.load import BaseModel, load_base_model
from worker.ml.inference.bank import AdapterBank
from worker.ml.inference.preview import LatentColours, fit_colours
from worker.ml.inference.spec import BaseModelSpec


@dataclass
class PipelineHandle:
    """One loaded base model, ready to draw.

    Attributes:
        pipeline: a StableDiffusionXLPipeline over the base's networks.
        bank: the only one to change the networks' weights.
    """

    spec: BaseModelSpec
    base: BaseModel
    pipeline: Any
    bank: AdapterBank
    policy: DevicePolicy

    @cached_property
    def base_sha256(self) -> str:
        """Hash of the base's weight files, for receipts."""
        return hash_model_files(self.base.sources)

    @cached_property
    def colours(self) -> LatentColours:
        """What its latents look like."""
        factor = self.pipeline.vae_scale_factor
        return fit_colours(self.base.vae, self.policy.device, factor)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the networks' weights."""
        return sum(
            parameter.nbytes
            for network in self.base.networks().values()
            for parameter in network.parameters()
        )


class PipelineCache:
    """Loads pipelines on demand and keeps the most recently used ones."""

    def __init__(
        self,
        policy: DevicePolicy,
        *,
        max_pipelines: int = 2,
        max_bytes: int = 64 * 1024**3,
        bank_bytes: int = 4 * 1024**3,
    ) -> None:
        """Start empty.

        Args:
            max_pipelines: how many base models may be loaded at once, at least 1.
            max_bytes: ceiling on their weights together; the newest stays even when over it.
            bank_bytes: ceiling on the parsed LoRAs kept for each.
        """
        self._policy = policy
        self._max_pipelines = max_pipelines
        self._max_bytes = max_bytes
        self._bank_bytes = bank_bytes
        self._handles: OrderedDict[BaseModelSpec, PipelineHandle] = OrderedDict()

    def held(self) -> list[str]:
        """Ids of the base models that are loaded, the least recently used first."""
        return [spec.id for spec in self._handles]

    def get(self, spec: BaseModelSpec) -> PipelineHandle:
        """The pipeline of a base model, loaded now unless it is kept.

        Raises:
            BaseModelUnavailable: it cannot be loaded.
        """
        if spec in self._handles:
            self._handles.move_to_end(spec)
            return self._handles[spec]
        # Room is made before loading, or both would be in memory at once.
        self._shrink(self._max_pipelines - 1)
        self._handles[spec] = open_pipeline(spec, self._policy, bank_bytes=self._bank_bytes)
        while len(self._handles) > 1 and self._bytes() > self._max_bytes:
            self._shrink(len(self._handles) - 1)
        return self._handles[spec]

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
    spec: BaseModelSpec, policy: DevicePolicy, *, bank_bytes: int = 4 * 1024**3
) -> PipelineHandle:
    """Load a base model and put a diffusers pipeline and an adapter bank over it.

    Raises:
        BaseModelUnavailable: it cannot be loaded.
    """
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
        StableDiffusionXLPipeline,
    )

    from worker.ml.inference.schedulers import make_scheduler

    base = load_base_model(spec.location, spec.revision, policy, variant=spec.variant)
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
    bank = AdapterBank(base.networks(), capacity_bytes=bank_bytes)
    return PipelineHandle(spec, base, pipeline, bank, policy)
