"""Pictures at a checkpoint: what the LoRA does so far, at the same seeds each time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worker.ml.inference.schedulers import make_scheduler
from worker.ml.training.step import Denoiser


@dataclass(frozen=True)
class SamplePrompt:
    """A prompt, and the seed of its noise."""

    prompt: str
    seed: int


@torch.no_grad()
def draw_samples(
    denoiser: Denoiser,
    vae: Any,
    scheduler_config: dict[str, Any],
    prompts: Sequence[SamplePrompt],
    folder: Path,
    *,
    device: torch.device,
    step: int,
    side: int,
    steps: int,
    guidance_scale: float,
    pause: Callable[[], None],
) -> list[Path]:
    """Draw each prompt with the UNet as it is now; the PNG files, in order.

    Args:
        pause: called between pictures; what it raises ends the drawing.
    """
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
        StableDiffusionXLPipeline,
    )

    folder.mkdir(parents=True, exist_ok=True)
    unet: Any = denoiser.unet
    was_training = unet.training
    unet.eval()
    vae.to(device)
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=make_scheduler("euler", scheduler_config),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    paths: list[Path] = []
    for number, wanted in enumerate(prompts):
        pause()
        embeds, pooled = denoiser.condition([wanted.prompt])
        latents = pipeline(
            prompt_embeds=embeds,
            pooled_prompt_embeds=pooled,
            negative_prompt_embeds=torch.zeros_like(embeds),
            negative_pooled_prompt_embeds=torch.zeros_like(pooled),
            width=side,
            height=side,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator("cpu").manual_seed(wanted.seed),
            output_type="latent",
        ).images
        scaled = latents.to(vae.dtype) / vae.config.scaling_factor
        pixels = vae.decode(scaled, return_dict=False)[0]
        image = pipeline.image_processor.postprocess(pixels.float(), output_type="pil")[0]
        path = folder / f"{step:08d}-{number}.png"
        image.save(path)
        paths.append(path)
    vae.to("cpu")
    unet.train(was_training)
    return paths
