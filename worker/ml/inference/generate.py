"""Draw: bring the base to the wanted LoRAs, denoise in batches, decode one by one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from worker.ml.base_models.trigger_words import TriggerWords, triggers_in_place
from worker.ml.inference.bank import BankedLora, LoraReport
from worker.ml.inference.errors import InferenceError, InitImageInvalid, Stopped, StrengthTooLow
from worker.ml.inference.pipelines import PipelineHandle
from worker.ml.inference.prompts import PromptEmbeds, encode_prompts
from worker.ml.inference.schedulers import make_scheduler
from worker.ml.inference.spec import GenerationSpec

# Called after each step with the fraction done in (0, 1], the steps done and their total.
OnProgress = Callable[[float, int, int], None]

_MAX_BATCH = 8
_CPU_BATCH = 4
# Activations of a guided UNet step per latent pixel, first block's channel and byte of dtype.
# A cautious guess at SDXL's peak; too high only makes batches smaller.
_ACTIVATIONS = 120


@dataclass(frozen=True)
class Preview:
    """A small picture of the way there, RGB; `number` says which of the spec's seeds it is of."""

    image: Image.Image
    number: int
    step: int
    total_steps: int


@dataclass(frozen=True)
class Watch:
    """What the caller hears of one spec while it is drawn, and how it says stop."""

    on_progress: OnProgress
    should_stop: Callable[[], bool]
    on_preview: Callable[[Preview], None] | None = None


@dataclass(frozen=True)
class GeneratedImage:
    """One finished picture, RGB."""

    image: Image.Image
    seed: int
    width: int
    height: int


@dataclass(frozen=True)
class Generation:
    """All pictures of a spec, in the order of its seeds, and what each LoRA changed."""

    images: list[GeneratedImage]
    loras: list[LoraReport]


def generate_many(
    handle: PipelineHandle, specs: Sequence[GenerationSpec], watches: Sequence[Watch]
) -> Iterator[tuple[int, "Generation | InferenceError"]]:
    """Draw several specs of one base model, together where they fit one batch.

    Yields:
        The number of a spec and its pictures, or why there are none, as each comes to its end;
        every spec once, in any order.
    """
    for number, (spec, watch) in enumerate(zip(specs, watches, strict=True)):
        try:
            yield number, generate(handle, spec, watch.on_progress, watch.should_stop)
        except InferenceError as error:
            yield number, error


def generate(
    handle: PipelineHandle,
    spec: GenerationSpec,
    on_progress: OnProgress,
    should_stop: Callable[[], bool],
) -> Generation:
    """Draw every seed of a spec.

    The noise of an image comes from a CPU generator of its own seed, so its pixels do not depend
    on its batch mates beyond rounding, nor its noise on the device.

    Raises:
        Stopped: `should_stop` said so; it is asked before and after each step.
        InferenceError: the spec or one of its LoRAs is unusable; `code` says how.
    """

    def stop_if_asked() -> None:
        if should_stop():
            raise Stopped("stopped before the picture was finished")

    stop_if_asked()
    # All that can refuse the spec comes before the weights change.
    make_scheduler(spec.scheduler, handle.base.scheduler_config)
    source = _open_init_image(spec)
    banked = [handle.bank.load(Path(lora.path), lora.sha256) for lora in spec.loras]
    activation = handle.bank.activate(
        [(lora, wanted.weights.unet) for lora, wanted in zip(banked, spec.loras, strict=True)]
    )
    embeds = _embed(handle, spec, banked)
    start = None if source is None else _encode_image(handle, source)

    images: list[GeneratedImage] = []
    total = len(spec.seeds) * spec.steps
    for seeds in _batches(spec.seeds, batch_limit(handle, spec)):
        stop_if_asked()

        def after_step(
            pipeline: Any,
            step: int,
            _timestep: Any,
            _tensors: dict[str, Any],
            drawn: int = len(images),
            count: int = len(seeds),
        ) -> dict[str, Any]:
            # Second-order schedulers call twice a step; the share of calls is the same.
            done = (drawn + count * (step + 1) / pipeline.num_timesteps) / len(spec.seeds)
            on_progress(done, round(done * total), total)
            stop_if_asked()
            return {}

        latents = _denoise(handle, spec, seeds, embeds, start, after_step)  # (B, 4, H/f, W/f)
        for seed, latent in zip(seeds, latents, strict=True):
            image = _decode(handle, latent.unsqueeze(0))
            images.append(GeneratedImage(image, seed, image.width, image.height))
    return Generation(images, list(activation.reports))


def _embed(
    handle: PipelineHandle, spec: GenerationSpec, banked: Sequence[BankedLora]
) -> PromptEmbeds:
    """The prompts, with the vectors that the set's LoRAs bring for their trigger words."""
    parts = {name: getattr(handle.pipeline, name) for name in ("text_encoder", "text_encoder_2")}
    bringing = {
        lora.lora.trigger.casefold(): lora.lora
        # Of two LoRAs with the same word the first is heard.
        for lora, wanted in reversed(list(zip(banked, spec.loras, strict=True)))
        if lora.lora.trigger
        and wanted.weights.text_encoder != 0
        and lora.lora.embeddings.keys() == parts.keys()
    }
    counts = {word: len(lora.embeddings["text_encoder"]) for word, lora in bringing.items()}
    vectors = {name: [lora.embeddings[name] for lora in bringing.values()] for name in parts}
    with triggers_in_place(parts, vectors):
        return encode_prompts(
            handle.pipeline,
            spec.prompt,
            spec.negative_prompt,
            guided=spec.guidance_scale > 1,
            triggers=TriggerWords(tuple(counts.items())),
        )


def batch_limit(handle: PipelineHandle, spec: GenerationSpec) -> int:
    """How many images to denoise at once: what free memory is sure to hold, 1 to 8."""
    if handle.policy.device.type != "cuda":
        return _CPU_BATCH
    free, _ = torch.cuda.mem_get_info(handle.policy.device)
    latent_pixels = spec.width * spec.height // spec.base_model.vae_scale_factor**2
    channels = handle.base.unet.config.block_out_channels[0]
    each = latent_pixels * channels * handle.policy.dtype.itemsize * _ACTIVATIONS
    return max(1, min(_MAX_BATCH, free // each))


def _batches(seeds: tuple[int, ...], limit: int) -> Iterator[tuple[int, ...]]:
    for start in range(0, len(seeds), limit):
        yield seeds[start : start + limit]


def _denoise(
    handle: PipelineHandle,
    spec: GenerationSpec,
    seeds: tuple[int, ...],
    embeds: PromptEmbeds,
    start: Tensor | None,
    after_step: Callable[..., dict[str, Any]],
) -> Tensor:
    """Latents of one batch. `start`: latents of the init image (1, 4, h, w), or None for noise."""
    count = len(seeds)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    pipeline = handle.pipeline
    # Schedulers keep state from step to step, so each batch has a fresh one.
    scheduler = make_scheduler(spec.scheduler, handle.base.scheduler_config)
    shared: dict[str, Any] = {
        "num_inference_steps": spec.steps,
        "guidance_scale": spec.guidance_scale,
        "generator": generators,
        "prompt_embeds": _repeat(embeds.prompt_embeds, count),
        "pooled_prompt_embeds": _repeat(embeds.pooled_prompt_embeds, count),
        "negative_prompt_embeds": _repeat(embeds.negative_prompt_embeds, count),
        "negative_pooled_prompt_embeds": _repeat(embeds.negative_pooled_prompt_embeds, count),
        "output_type": "latent",
        "callback_on_step_end": after_step,
        "callback_on_step_end_tensor_inputs": [],
    }
    if start is not None:
        image_to_image = _image_to_image(handle, scheduler)
        # Four channels are taken for latents, so the VAE is not run again.
        image = _repeat(start, count)
        return image_to_image(image=image, strength=spec.strength, **shared).images

    pipeline.scheduler = scheduler
    factor = pipeline.vae_scale_factor
    shape = (1, handle.base.unet.config.in_channels, spec.height // factor, spec.width // factor)
    # Drawn in float32 whatever the UNet computes in: bfloat16 would draw another picture.
    noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    noise = noise.to(handle.policy.device, handle.policy.dtype)
    return pipeline(width=spec.width, height=spec.height, latents=noise, **shared).images


def _image_to_image(handle: PipelineHandle, scheduler: Any) -> Any:
    """The image-to-image pipeline over the same networks."""
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl_img2img import (
        StableDiffusionXLImg2ImgPipeline,
    )

    base = handle.base
    pipeline = StableDiffusionXLImg2ImgPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        text_encoder_2=base.text_encoder_2,
        tokenizer=base.tokenizer,
        tokenizer_2=base.tokenizer_2,
        unet=base.unet,
        scheduler=scheduler,
        force_zeros_for_empty_prompt=base.force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _open_init_image(spec: GenerationSpec) -> Image.Image | None:
    """The init image, upright, on white, filling width × height with what overhangs cut off."""
    if spec.init_image is None:
        return None
    if int(spec.steps * spec.strength) < 1:
        raise StrengthTooLow(
            f"strength {spec.strength:g} of {spec.steps} steps is below one step; raise either"
        )
    try:
        with Image.open(spec.init_image) as file:
            rgba = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InitImageInvalid("the init image cannot be decoded") from error
    canvas = Image.new("RGBA", rgba.size, "white")
    canvas.alpha_composite(rgba)
    size = (spec.width, spec.height)
    return ImageOps.fit(canvas.convert("RGB"), size, Image.Resampling.LANCZOS)


@torch.no_grad()
def _encode_image(handle: PipelineHandle, image: Image.Image) -> Tensor:
    """Latents (1, 4, H/f, W/f) of a picture: the mean, so that no chance enters here."""
    vae = handle.base.vae
    pixels = handle.pipeline.image_processor.preprocess(image)  # (1, 3, H, W) in [-1, 1]
    latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode()
    return (latents * vae.config.scaling_factor).to(handle.policy.dtype)


@torch.no_grad()
def _decode(handle: PipelineHandle, latents: Tensor) -> Image.Image:
    """The picture of latents (1, 4, h, w), in the VAE's own precision.

    One at a time: the VAE's activations are the peak of memory, and one picture's pixels must not
    depend on the others'.
    """
    vae = handle.base.vae
    scaled = latents.to(vae.device, vae.dtype) / vae.config.scaling_factor
    pixels = vae.decode(scaled, return_dict=False)[0]
    images = handle.pipeline.image_processor.postprocess(pixels.float(), output_type="pil")
    return images[0]


def _repeat(tensor: Tensor | None, count: int) -> Tensor | None:
    return None if tensor is None else tensor.repeat(count, *[1] * (tensor.ndim - 1))
