"""The peer of our inference: diffusers' SDXL pipeline with its own way of loading LoRAs."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from worker.ml.base_models.device import DevicePolicy
from worker.ml.base_models.load import load_base_model
from worker.ml.inference.schedulers import make_scheduler
from worker.ml.inference.spec import GenerationSpec, LoraSpec


class Peer:
    """One pipeline over weights of its own, from the same folder."""

    def __init__(self, location: str, policy: DevicePolicy) -> None:
        from diffusers import StableDiffusionXLPipeline

        base = load_base_model(location, None, policy)
        self.base = base
        self.pipeline: Any = StableDiffusionXLPipeline(
            **base.networks(),
            tokenizer=base.tokenizer,
            tokenizer_2=base.tokenizer_2,
            scheduler=make_scheduler("euler", base.scheduler_config),
            force_zeros_for_empty_prompt=base.force_zeros_for_empty_prompt,
            add_watermarker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self._parsed: dict[str, dict[str, Tensor]] = {}
        self._loaded: set[str] = set()

    def parse(self, loras: Sequence[LoraSpec]) -> None:
        """Read files ahead, so that a switch is not charged for the disk."""
        for lora in loras:
            self._parsed.setdefault(lora.id, load_file(lora.path))

    def switch(self, loras: Sequence[LoraSpec]) -> None:
        """Unload whatever is there, load this set, and set its weights."""
        self.pipeline.unload_lora_weights()
        self._loaded = set()
        self.choose(loras)

    def choose(self, loras: Sequence[LoraSpec]) -> None:
        """Load what is missing, keep what is there, and set the weights of this set."""
        for lora in loras:
            if lora.id not in self._loaded:
                # A copy, as the loader takes its dictionary apart.
                self.pipeline.load_lora_weights(dict(self._parsed[lora.id]), adapter_name=lora.id)
                self._loaded.add(lora.id)
        if loras:
            self.pipeline.enable_lora()
            self.pipeline.set_adapters(
                [lora.id for lora in loras], [float(lora.weights.unet) for lora in loras]
            )
        elif self._loaded:
            self.pipeline.disable_lora()

    def draw(self, spec: GenerationSpec) -> Image.Image:
        """One picture of a spec's first seed."""
        self.pipeline.scheduler = make_scheduler(spec.scheduler, self.base.scheduler_config)
        latents = self.pipeline(
            spec.prompt,
            negative_prompt=spec.negative_prompt or None,
            width=spec.width,
            height=spec.height,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(spec.seeds[0]),
            output_type="latent",
        ).images
        return self._decoded(latents)

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Image.Image:
        # The pipeline gives a VAE in float32 what a UNet in bfloat16 made, which fails.
        vae = self.base.vae
        pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0]
        pictures = self.pipeline.image_processor.postprocess(pixels, output_type="pil")
        picture: Image.Image = pictures[0]
        return picture
