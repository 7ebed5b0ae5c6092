"""The denoising loop: rows of noise to rows of latents, each row with its own prompts and LoRAs.

It is that of diffusers' SDXL pipelines, to the bit for one text-to-image row, and has what they
leave out: LoRAs that come and go between steps, rows with sets of their own, rescaled guidance for
pictures that start from a picture, and a look at the way there.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from worker.ml.inference.batches import Batch, Row
from worker.ml.inference.pictures import decode_latents, encode_picture
from worker.ml.inference.pipelines import PipelineHandle
from worker.ml.inference.prepare import Segment
from worker.ml.inference.schedulers import make_scheduler
from worker.ml.inference.spec import GenerationSpec
from worker.ml.inference.stacked import StackedLoras

# What a hires pass rounds its size to.
_MULTIPLE = 8


@dataclass(frozen=True)
class StepDone:
    """A step of a batch.

    Attributes:
        done, total: steps of all passes.
        foretold: what the picture's latents would be if it ended here, (B, 4, h, w).
    """

    done: int
    total: int
    foretold: Callable[[], Tensor]


OnStep = Callable[[StepDone], None]


@dataclass(frozen=True)
class _Pass:
    """One run through the schedule, or through the end of it.

    Attributes:
        latents: (B, 4, h, w) of the pictures to start from; None starts from noise.
        mask: (B, 1, h, w), 1 where these are drawn anew; None: everywhere.
    """

    width: int
    height: int
    steps: int
    strength: float = 1.0
    latents: Tensor | None = None
    mask: Tensor | None = None

    @property
    def first_step(self) -> int:
        """How many steps are left out."""
        return max(self.steps - int(self.steps * self.strength), 0)


def hires_size(spec: GenerationSpec) -> tuple[int, int]:
    """Width and height of a spec's pictures, after its second pass if it has one."""
    if spec.hires is None:
        return spec.width, spec.height
    width, height = (
        round(side * spec.hires.scale / _MULTIPLE) * _MULTIPLE for side in (spec.width, spec.height)
    )
    return width, height


@torch.no_grad()
def denoise(handle: PipelineHandle, batch: Batch, on_step: OnStep) -> Tensor:
    """Latents (B, 4, h, w) of a batch.

    The noise of a row comes from a CPU generator of its own seed, in float32, so it depends
    neither on the other rows nor on the device nor on the number format.
    """
    spec = batch.rows[0].prepared.spec
    generators = [torch.Generator("cpu").manual_seed(row.seed) for row in batch.rows]
    first = _first_pass(batch.rows)
    hires = spec.hires
    second_steps = 0 if hires is None else int((hires.steps or spec.steps) * hires.strength)
    with handle.bank.stacked(handle.policy.device) as stack:
        loop = _Loop(handle, batch, stack, generators)
        loop.total = first.steps - first.first_step + second_steps
        latents = loop.run(first, on_step)
        if hires is None or second_steps == 0:
            return latents
        width, height = hires_size(spec)
        larger = _enlarged(handle, latents, width, height, hires.upscaler)
        steps = hires.steps or spec.steps
        return loop.run(_Pass(width, height, steps, hires.strength, larger), on_step)


class _Loop:
    """A batch on its way: which LoRAs and prompts its rows have now, and how far it is."""

    def __init__(
        self,
        handle: PipelineHandle,
        batch: Batch,
        stack: StackedLoras,
        generators: list[torch.Generator],
    ) -> None:
        self.handle = handle
        self.batch = batch
        self.stack = stack
        self.generators = generators
        self.spec = batch.rows[0].prepared.spec
        self.guided = self.spec.guidance_scale > 1
        self.done = 0
        self.total = 0
        self._now: tuple[int, ...] | None = None
        self._prompt: Tensor | None = None
        self._pooled: Tensor | None = None

    def run(self, stage: _Pass, on_step: OnStep) -> Tensor:
        device, dtype = self.handle.policy.device, self.handle.policy.dtype
        # Schedulers keep state from step to step, so each pass has a fresh one.
        scheduler = make_scheduler(self.spec.scheduler, self.handle.base.scheduler_config)
        scheduler.set_timesteps(stage.steps, device=device)
        calls = len(scheduler.timesteps)
        skipped = stage.first_step * scheduler.order
        timesteps = scheduler.timesteps[skipped:]
        if skipped and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped)
        noise = self._noise(stage)
        if stage.latents is None or skipped == 0:
            latents = noise * scheduler.init_noise_sigma
        else:
            latents = scheduler.add_noise(stage.latents, noise, timesteps[:1].repeat(len(noise)))
        latents = latents.to(dtype)
        time_ids = self._time_ids(stage, dtype)
        extra = _step_arguments(scheduler, self.generators)
        before = self.done
        for number, timestep in enumerate(timesteps):
            self._dress((skipped + number) / calls)
            output = self._predict(scheduler, latents, timestep, time_ids)
            sample = latents
            sigma = _sigma(scheduler)
            latents = scheduler.step(output, timestep, latents, **extra, return_dict=False)[0]
            latents = latents.to(dtype)
            if stage.mask is not None and stage.latents is not None:
                latents = _kept(stage, scheduler, latents, noise, timesteps, number)
            # Second-order schedulers call twice a step.
            share = (number + 1) / len(timesteps) * (stage.steps - stage.first_step)
            self.done = before + round(share)
            estimate = partial(foretold, scheduler, output, timestep, sample, sigma)
            on_step(StepDone(self.done, self.total, estimate))
        return latents

    def _noise(self, stage: _Pass) -> Tensor:
        factor = self.handle.pipeline.vae_scale_factor
        channels = self.handle.base.unet.config.in_channels
        shape = (1, channels, stage.height // factor, stage.width // factor)
        # In float32 whatever the UNet computes in: bfloat16 would draw another picture.
        rows = [torch.randn(shape, generator=generator) for generator in self.generators]
        return torch.cat(rows).to(self.handle.policy.device, self.handle.policy.dtype)

    def _time_ids(self, stage: _Pass, dtype: torch.dtype) -> Tensor:
        """Original size, crop and target size of each row, (B or 2B, 6)."""
        size = (stage.height, stage.width)
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=dtype, device=self.handle.policy.device)
        return ids.repeat(len(self.batch.rows) * (2 if self.guided else 1), 1)

    def _dress(self, position: float) -> None:
        """Bring LoRAs and prompts to what they are at this fraction of the steps."""
        self.handle.residency.bring("unet")
        now = tuple(_segment_at(row, position) for row in self.batch.rows)
        if now == self._now:
            return
        self._now = now
        segments = [
            row.prepared.segments[number] for row, number in zip(self.batch.rows, now, strict=True)
        ]
        bank = self.handle.bank
        with self.handle.stage("switch"):
            if self.batch.merged:
                bank.activate(segments[0].uses, parts=("unet",))
            else:
                bank.activate([], parts=("unet",))
                rows = [segment.uses for segment in segments]
                self.stack.set(rows, copies=2 if self.guided else 1)
        self._prompt, self._pooled = _conditioning(segments, self.guided)

    def _predict(
        self, scheduler: Any, latents: Tensor, timestep: Tensor, time_ids: Tensor
    ) -> Tensor:
        """What the UNet says of the noise, guided."""
        # Each row without its prompt and beside it with it: what stacked rows count on.
        doubled = latents.repeat_interleave(2, dim=0) if self.guided else latents
        output: Tensor = self.handle.base.unet(
            scheduler.scale_model_input(doubled, timestep),
            timestep,
            encoder_hidden_states=self._prompt,
            added_cond_kwargs={"text_embeds": self._pooled, "time_ids": time_ids},
            return_dict=False,
        )[0]
        if not self.guided:
            return output
        without, with_prompt = output[0::2], output[1::2]
        guided = without + self.spec.guidance_scale * (with_prompt - without)
        if self.spec.guidance_rescale == 0:
            return guided
        return rescaled(guided, with_prompt, self.spec.guidance_rescale)


def rescaled(guided: Tensor, with_prompt: Tensor, share: float) -> Tensor:
    """Guidance whose spread is brought to that of the prediction without it (Lin et al. 2023, 3.4).

    Args:
        guided, with_prompt: (B, 4, h, w).
        share: 0 leaves `guided`, 1 gives it wholly the other's standard deviation, row by row.
    """
    axes = list(range(1, guided.ndim))
    spread = with_prompt.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return share * (guided * spread) + (1 - share) * guided


def foretold(
    scheduler: Any, output: Tensor, timestep: Tensor, sample: Tensor, sigma: Tensor | None
) -> Tensor:
    """The clean latents that a prediction stands for, (B, 4, h, w), float32.

    With x = αx₀ + σε: x₀ = (x - σε) / α, of a v prediction αx - σv. Schedulers that count in
    sigmas carry x / α, and their σ / α as `sigma`.
    """
    x, said = sample.float(), output.float()
    velocity = scheduler.config.prediction_type == "v_prediction"
    if sigma is not None:
        if velocity:
            return x / (sigma**2 + 1) - said * sigma / (sigma**2 + 1).sqrt()
        return x - sigma * said
    at = timestep.long().clamp(0, len(scheduler.alphas_cumprod) - 1)
    alpha_squared = scheduler.alphas_cumprod.to(x.device)[at.to(x.device)].float()
    alpha, spread = alpha_squared.sqrt(), (1 - alpha_squared).sqrt()
    if velocity:
        return alpha * x - spread * said
    # At zero terminal SNR nothing of the picture is in the sample.
    return (x - spread * said) / alpha.clamp_min(1e-3)


def _sigma(scheduler: Any) -> Tensor | None:
    """The coming step's σ / α, of schedulers that carry x / α; None of the others."""
    if float(scheduler.init_noise_sigma) == 1.0:
        return None
    sigma: Tensor = scheduler.sigmas[scheduler.step_index or 0].float()
    return sigma


def _first_pass(rows: Sequence[Row]) -> _Pass:
    spec = rows[0].prepared.spec
    sources = [row.prepared.source for row in rows]
    given = [source for source in sources if source is not None]
    if not given:
        return _Pass(spec.width, spec.height, spec.steps)
    latents = torch.cat([source.latents for source in given])
    masks = [source.latent_mask for source in given if source.latent_mask is not None]
    mask = torch.cat(masks) if masks else None
    return _Pass(spec.width, spec.height, spec.steps, spec.strength, latents, mask)


def _kept(
    stage: _Pass,
    scheduler: Any,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    number: int,
) -> Tensor:
    """The source's own latents, as noisy as the rest is now, where the mask is black."""
    assert stage.latents is not None, "only a pass with a mask has something to keep"
    assert stage.mask is not None, "only a pass with a mask has something to keep"
    kept = stage.latents
    if number + 1 < len(timesteps):
        at = timesteps[number + 1 : number + 2].repeat(len(kept))
        kept = scheduler.add_noise(kept, noise, at).to(latents.dtype)
    return stage.mask * latents + (1 - stage.mask) * kept


def _enlarged(
    handle: PipelineHandle, latents: Tensor, width: int, height: int, upscaler: str
) -> Tensor:
    """Latents of the same pictures at another size."""
    if upscaler == "latent":
        factor = handle.pipeline.vae_scale_factor
        size = (height // factor, width // factor)
        return interpolate(latents.float(), size=size, mode="bicubic").to(latents.dtype)
    from PIL import Image

    rows = []
    for row in latents:
        picture = decode_latents(handle, row.unsqueeze(0))
        larger = picture.resize((width, height), Image.Resampling.LANCZOS)
        rows.append(encode_picture(handle, larger))
    return torch.cat(rows)


def _segment_at(row: Row, position: float) -> int:
    segments = row.prepared.segments
    # A position that ought to be a segment's begin may fall short of it by rounding.
    return max(n for n, segment in enumerate(segments) if segment.begin <= position + 1e-9)


def _conditioning(segments: Sequence[Segment], guided: bool) -> tuple[Tensor, Tensor]:
    """Prompt embeddings (B or 2B, T, D) and pooled ones (B or 2B, P) of these rows."""
    prompt, pooled = [], []
    for segment in segments:
        embeds = segment.embeds
        if guided:
            prompt.append(_given(embeds.negative_prompt_embeds))
            pooled.append(_given(embeds.negative_pooled_prompt_embeds))
        prompt.append(embeds.prompt_embeds)
        pooled.append(embeds.pooled_prompt_embeds)
    return torch.cat(prompt), torch.cat(pooled)


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "with guidance the negative prompt is embedded too"
    return tensor


def _step_arguments(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """What this scheduler's step takes besides; as diffusers' pipelines give it."""
    known = inspect.signature(scheduler.step).parameters
    arguments: dict[str, Any] = {}
    if "eta" in known:
        arguments["eta"] = 0.0
    if "generator" in known:
        arguments["generator"] = generators
    return arguments
