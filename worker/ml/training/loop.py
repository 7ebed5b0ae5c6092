"""The training loop: from prepared latents to checkpoints.

Every random choice comes from (seed, step), see `sampling`; all else that a step depends on is in
the state. So a run killed anywhere and resumed makes the same bytes as one that was not.
"""

import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from worker.ml.base_models.hashing import hash_tensors
from worker.ml.base_models.load import BaseModel, load_base_model
from worker.ml.lora_files.index import LoraIndex
from worker.ml.lora_files.names import UnetShape
from worker.ml.training import sampling
from worker.ml.training.adapters import (
    adapter_parameters,
    add_adapters,
    base_weights,
    read_adapters,
)
from worker.ml.training.errors import BaseModelUnsuitable, LossNotFinite, OutOfMemory, Stopped
from worker.ml.training.events import Events
from worker.ml.training.export import export_checkpoint
from worker.ml.training.objective import NoiseSchedule, weighted_loss
from worker.ml.training.plan import Plan
from worker.ml.training.prepare import Prepared
from worker.ml.training.samples import draw_samples
from worker.ml.training.spec import TrainingSpec
from worker.ml.training.state import Position, load_state, newest_state, save_state
from worker.ml.training.validation import validation_loss

# How many steps' losses may wait on the device before they are read.
FLUSH_STEPS = 10
FLUSH_SECONDS = 1.0
# Noise and velocity have a variance near 1, so a loss of 1 is that of a UNet that answers zero.
RUNAWAY_LOSS = 10.0


@dataclass
class _Step:
    """One step's numbers, still on the device."""

    step: int
    epoch: int
    images: int
    lr: float
    loss: Tensor
    grad_norm: Tensor


@dataclass
class Training:
    """One run, from a spec to its checkpoints."""

    spec: TrainingSpec
    spec_sha256: str
    plan: Plan
    prepared: Prepared
    output: Path
    events: Events
    should_stop: Callable[[], bool]
    state_every_seconds: float
    _waiting: list[_Step] = field(default_factory=list)
    _flushed_at: float = 0.0
    _trained_images: int = 0

    def run(self, *, resume: bool) -> None:
        """Train to the end.

        Raises:
            Stopped: `should_stop` said so; the state is saved.
            BaseModelUnsuitable, LossNotFinite, OutOfMemory, ExportMismatch: as their names say.
        """
        try:
            self._load()
        except ValueError as error:
            raise BaseModelUnsuitable(f"{self.spec.base_model.id}: {error}") from error
        if resume:
            self._resume()
        try:
            self._train()
        except torch.OutOfMemoryError as error:
            params = self.spec.params
            raise OutOfMemory(
                f"the device has too little memory for batch {params.batch_size} at "
                f"{params.resolution} px"
            ) from error

    def _load(self) -> None:
        self.events.progress("load", last=True)
        base, params = self.spec.base_model, self.spec.params
        loaded: BaseModel = load_base_model(
            base.location, base.revision, self.plan.policy, parts=("unet",)
        )
        self.unet = loaded.unet
        self.scheduler_config = loaded.scheduler_config
        self.shape = UnetShape.of(self.unet.config)
        self.index = LoraIndex({"unet": self.unet})
        self.base_hash = hash_tensors(base_weights(self.unet))
        self.schedule = NoiseSchedule.of(loaded.scheduler_config).to(self.plan.device)
        add_adapters(self.unet, params)
        if self.plan.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.unet.train()
        self.parameters = adapter_parameters(self.unet)
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=params.learning_rate,
            weight_decay=params.weight_decay,
            fused=True,
        )
        self.rate_at = _schedule_of_rates(self.optimizer, self.spec, self.total_steps)
        self.scaler = torch.amp.GradScaler(
            self.plan.device.type, enabled=self.plan.autocast == torch.float16
        )
        self.position = Position(step=0, spec_sha256=self.spec_sha256)

    def _resume(self) -> None:
        path, notes = newest_state(self.output / "states", self.spec_sha256)
        for note in notes:
            self.events.log(note, "warning")
        if path is None:
            self.events.log("there is no state to go on from; starting at step 0", "warning")
            return
        self.position = load_state(path, self.parameters, self.optimizer)
        if self.position.grad_scaler is not None:
            self.scaler.load_state_dict(self.position.grad_scaler)
        self.events.log(f"going on from step {self.position.step}")

    def _train(self) -> None:
        params, steps = self.spec.params, self.prepared.steps
        if self.position.step == 0 and self.prepared.held_out:
            loss = self._validate()
            self.position.first_validation_loss = self.position.last_validation_loss = loss
            self._send_rows([_row(step=0, epoch=0, validation_loss=loss)])
        saved_at = self._flushed_at = started = time.monotonic()
        first = self.position.step
        batches: list[list[int]] = []
        batches_of = -1
        while True:
            step = self.position.step
            # Before the next step, not after the last: a run that was stopped inside a checkpoint
            # makes it anew when it goes on.
            if self._ends_in_checkpoint(step) and step not in self.position.checkpoints:
                self._checkpoint(math.ceil(step / steps.steps_per_epoch))
                self._save_state()
                saved_at = time.monotonic()
            if step == self.total_steps:
                break
            self._pause()
            if time.monotonic() - saved_at > self.state_every_seconds:
                self._save_state()
                saved_at = time.monotonic()
            epoch, within = divmod(step, steps.steps_per_epoch)
            if epoch != batches_of:
                batches = sampling.epoch_batches(
                    self.prepared.buckets, params.batch_size, self.spec.seed, epoch
                )
                batches_of = epoch
            start = within * params.gradient_accumulation
            self._step(step, epoch, batches[start : start + params.gradient_accumulation])
            self.position.step = done = step + 1
            if (
                len(self._waiting) >= FLUSH_STEPS
                or time.monotonic() - self._flushed_at > FLUSH_SECONDS
            ):
                self._flush()
            pace = (time.monotonic() - started) / (done - first)
            self.events.progress(
                "train",
                step=done,
                total_steps=self.total_steps,
                fraction=done / self.total_steps,
                eta_s=pace * (self.total_steps - done),
                last=done == self.total_steps,
            )
        self._finish()

    def _ends_in_checkpoint(self, step: int) -> bool:
        """Whether the step just done is the last of the run, or of an epoch that is kept."""
        epoch, within = divmod(step, self.prepared.steps.steps_per_epoch)
        kept = within == 0 and epoch % self.spec.params.save_every_n_epochs == 0
        return step == self.total_steps or (step > 0 and kept)

    def _pause(self) -> None:
        """The point where a run may be stopped: nothing since the last step is half done.

        Raises:
            Stopped: it was asked for, and the state is saved.
        """
        if self.should_stop():
            self._save_state()
            raise Stopped(self.position.step)

    def _step(self, step: int, epoch: int, micro_batches: list[list[int]]) -> None:
        """One optimizer step; nothing here waits for the device."""
        params = self.spec.params
        lr = params.learning_rate * self.rate_at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        losses: list[Tensor] = []
        for number, images in enumerate(micro_batches):
            micro_step = step * params.gradient_accumulation + number
            loss = self._loss(images, micro_step) / len(micro_batches)
            self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        self.scaler.unscale_(self.optimizer)
        limit = params.max_grad_norm or float("inf")
        grad_norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        count = sum(len(images) for images in micro_batches)
        total = torch.stack(losses).sum()
        self._waiting.append(_Step(step + 1, epoch + 1, count, lr, total, grad_norm.detach()))

    def _loss(self, numbers: list[int], micro_step: int) -> Tensor:
        """The loss of one batch: its choices, its noise, the UNet, the weighted error."""
        params, seed, device = self.spec.params, self.spec.seed, self.plan.device
        count = len(numbers)
        images = [self.prepared.images[number] for number in numbers]
        flips = sampling.flip_choice(count, seed, micro_step)
        chosen = [
            image.variants[int(flip and len(image.variants) > 1)]
            for image, flip in zip(images, flips, strict=True)
        ]
        variants = len(self.prepared.captions[0])
        texts = [
            self.prepared.empty if variant is None else self.prepared.captions[number][variant]
            for number, variant in zip(
                numbers,
                sampling.caption_choice(
                    count, variants, params.caption_dropout_rate, seed, micro_step
                ),
                strict=True,
            )
        ]
        latents = torch.stack(chosen).to(device)  # (B, 4, h, w)
        noise = sampling.noise_for(latents.shape, seed, micro_step, params.noise_offset).to(device)
        timesteps = sampling.timesteps_for(count, seed, micro_step, self.schedule.timesteps).to(
            device
        )  # (B,)
        dtype = self.plan.policy.dtype
        with self._arithmetic():
            predicted = self.unet(
                self.schedule.add_noise(latents, noise, timesteps).to(dtype),
                timesteps,
                encoder_hidden_states=torch.stack([text.tokens for text in texts]).to(
                    device, dtype
                ),
                added_cond_kwargs={
                    "text_embeds": torch.stack([text.pooled for text in texts]).to(device, dtype),
                    "time_ids": torch.tensor([image.time_ids for image in images], device=device),
                },
                return_dict=False,
            )[0]
        target = self.schedule.target(latents, noise, timesteps)
        snr = self.schedule.snr(timesteps)
        return weighted_loss(predicted, target, snr, params.min_snr_gamma, self.schedule)

    def _checkpoint(self, epoch: int) -> None:
        """Measure, draw and write the LoRA as it is now."""
        step = self.position.step
        loss = self._validate() if self.prepared.held_out else None
        if loss is not None:
            self.position.last_validation_loss = loss
        self._flush(loss)
        if self.prepared.samples:
            self._draw_samples(step, epoch)
        folder = self.output / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        file = export_checkpoint(
            folder / f"{step:08d}.safetensors",
            read_adapters(self.unet),
            self.spec,
            self.shape,
            self.index,
            prediction=self.schedule.prediction,
            step=step,
            epoch=epoch,
            total_steps=self.total_steps,
        )
        self.position.checkpoints[step] = loss
        self.events.send(
            "checkpoint",
            epoch=epoch,
            step=step,
            path=str(file.path),
            sha256=file.sha256,
            bytes=file.bytes,
            validation_loss=loss,
            file_metadata=file.metadata,
        )

    def _draw_samples(self, step: int, epoch: int) -> None:
        spec = self.spec
        paths = draw_samples(
            self.unet,
            self.prepared.vae,
            self.scheduler_config,
            self.prepared.samples,
            self.output / "samples",
            step=step,
            side=spec.params.resolution,
            steps=spec.sample_steps,
            guidance_scale=spec.sample_guidance_scale,
            arithmetic=self._arithmetic,
            pause=self._pause,
        )
        for wanted, path in zip(self.prepared.samples, paths, strict=True):
            self.events.send(
                "sample",
                step=step,
                epoch=epoch,
                prompt=wanted.prompt,
                seed=wanted.seed,
                path=str(path),
            )

    def _validate(self) -> float:
        return validation_loss(
            self.unet,
            self.prepared.held_out,
            self.schedule,
            self.plan.device,
            self.plan.policy.dtype,
            self._arithmetic,
            self._pause,
        )

    def _save_state(self) -> None:
        self._flush()
        if self.scaler.is_enabled():
            self.position.grad_scaler = self.scaler.state_dict()
        path = save_state(self.output / "states", self.position, self.parameters, self.optimizer)
        self.events.send("state", step=self.position.step, path=str(path))

    def _flush(self, validation: float | None = None) -> None:
        """Read the waiting losses off the device, all at once, and tell them.

        Raises:
            LossNotFinite: one of them, or its gradient, is NaN, infinite or beyond reason.
        """
        if not self._waiting:
            if validation is not None:
                # Stopped inside the checkpoint: the step's own row went out before.
                step = self.position.step
                epoch = math.ceil(step / self.prepared.steps.steps_per_epoch)
                loss = self.position.last_loss
                self._send_rows(
                    [_row(step=step, epoch=epoch, loss=loss, validation_loss=validation)]
                )
            return
        numbers = torch.stack(
            [torch.stack([each.loss, each.grad_norm.to(each.loss)]) for each in self._waiting]
        ).tolist()
        now = time.monotonic()
        speed = sum(each.images for each in self._waiting) / max(now - self._flushed_at, 1e-9)
        rows = [
            _row(
                step=each.step,
                epoch=each.epoch,
                loss=loss,
                lr=each.lr,
                grad_norm=grad_norm,
                images_per_second=round(speed, 3),
                memory_bytes=self._memory_bytes(),
            )
            for each, (loss, grad_norm) in zip(self._waiting, numbers, strict=True)
        ]
        self._waiting, self._flushed_at = [], now
        for row in rows:
            self._check(row)
        if self.position.first_loss is None:
            self.position.first_loss = rows[0]["loss"]
        self.position.last_loss = rows[-1]["loss"]
        rows[-1]["validation_loss"] = validation
        self._send_rows(rows)

    def _check(self, row: dict[str, Any]) -> None:
        advice = f"try a learning rate below {self.spec.params.learning_rate:g}"
        if not row["loss"] <= RUNAWAY_LOSS:
            raise LossNotFinite(f"the loss became {row['loss']} at step {row['step']}; {advice}")
        # A loss scaler leaves out the steps whose gradient overflowed; without one they are in the
        # weights already, and the next loss would be the first to show it.
        if not (math.isfinite(row["grad_norm"]) or self.scaler.is_enabled()):
            raise LossNotFinite(
                f"the gradient became {row['grad_norm']} at step {row['step']}; {advice}"
            )

    def _send_rows(self, rows: list[dict[str, Any]]) -> None:
        self.events.send("metrics", rows=rows)

    def _finish(self) -> None:
        """Choose the best checkpoint, and prove that the base is as it was."""
        measured = {
            step: loss for step, loss in self.position.checkpoints.items() if loss is not None
        }
        recommended = (
            min(measured, key=lambda step: (measured[step], step))
            if measured
            else max(self.position.checkpoints)
        )
        base_hash = hash_tensors(base_weights(self.unet))
        self.events.send(
            "result",
            recommended_step=recommended,
            first_loss=self.position.first_loss,
            last_loss=self.position.last_loss,
            first_validation_loss=self.position.first_validation_loss,
            last_validation_loss=self.position.last_validation_loss,
            base_hash=base_hash,
            base_hash_unchanged=base_hash == self.base_hash,
        )

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.prepared.steps.total_steps

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """The number format and the attention kernel that the plan chose for the UNet."""
        with ExitStack() as stack:
            if self.plan.autocast is not None:
                stack.enter_context(torch.autocast(self.plan.device.type, self.plan.autocast))
            if self.plan.plain_attention:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def _memory_bytes(self) -> int:
        if self.plan.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.plan.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _row(**known: Any) -> dict[str, Any]:
    names = ("loss", "lr", "grad_norm", "images_per_second", "memory_bytes", "validation_loss")
    return {**dict.fromkeys(names), **known}


def _schedule_of_rates(
    optimizer: torch.optim.Optimizer, spec: TrainingSpec, total_steps: int
) -> Callable[[int], float]:
    """The learning rate's factor at a step: a pure function, so a resumed run needs no history."""
    from diffusers.optimization import get_scheduler

    name, warmup = spec.params.lr_scheduler, spec.params.lr_warmup_steps
    scheduler = get_scheduler(
        "constant_with_warmup" if name == "constant" and warmup else name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=total_steps,
    )
    rates: Callable[[int], float] = scheduler.lr_lambdas[0]
    return rates
