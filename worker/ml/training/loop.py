"""The training loop: from prepared latents to checkpoints.

Every random choice comes from (seed, step), see `sampling`; all else that a step depends on is in
the state. So a run killed anywhere and resumed makes the same bytes as one that was not.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from worker.ml.training import sampling
from worker.ml.training.batches import Batch, BatchMaker
from worker.ml.training.data.prepare import Prepared
from worker.ml.training.errors import BaseModelUnsuitable, OutOfMemory, Stopped
from worker.ml.training.events import Events
from worker.ml.training.files.export import export_checkpoint, export_layouts
from worker.ml.training.memory.ladder import MemoryPlan
from worker.ml.training.memory.plan import Plan
from worker.ml.training.parallel import Group
from worker.ml.training.progress import Ledger
from worker.ml.training.spec import TrainingSpec
from worker.ml.training.state import Measured, Position, load_state, newest_state, save_state
from worker.ml.training.trainee import Trainee, load_trainee
from worker.ml.training.watching.samples import SamplePrompt, draw_samples
from worker.ml.training.watching.watch import Watch

Result = TypeVar("Result")


@dataclass
class Training:
    """One run, from a spec to its checkpoints; of several processes each has its own."""

    spec: TrainingSpec
    spec_sha256: str
    plan: Plan
    prepared: Prepared
    output: Path
    events: Events
    group: Group
    should_stop: Callable[[], bool]
    state_every_seconds: float
    _batches: tuple[int, list[list[int]]] = field(default=(-1, []))

    def run(self, *, resume: bool) -> None:
        """Train to the end.

        Raises:
            Stopped: `should_stop` said so; the state is saved.
            BaseModelUnsuitable, LossNotFinite, OutOfMemory, ExportMismatch: as their names say.
        """
        self.events.progress("load", last=True)
        try:
            self.trainee: Trainee = load_trainee(
                self.spec, self.plan, self.prepared, self.group, self.events
            )
        except ValueError as error:
            raise BaseModelUnsuitable(f"{self.spec.base_model.id}: {error}") from error
        self.position = Position(step=0, spec_sha256=self.spec_sha256)
        if resume:
            self._resume()
        self.base_hash = self.trainee.base_hash()
        self.watch = Watch(self.spec, self.prepared, self.trainee, self._pause)
        self.ledger = Ledger(self.spec, self.events, self.trainee)
        self.maker = BatchMaker(
            self.spec,
            self.prepared.images,
            self.prepared.wordings,
            timesteps=self.trainee.denoiser.schedule.timesteps,
            device=self.plan.device,
            group=self.group,
        )
        self._train()

    def _resume(self) -> None:
        path, notes = newest_state(self.output / "states", self.spec_sha256)
        for note in notes:
            self.events.log(note, "warning")
        if path is None:
            self.events.log("there is no state to go on from; starting at step 0", "warning")
            return
        self.position, tensors = load_state(path)
        self.trainee.restore(tensors, self.position.extra)
        if self.position.memory is not None:
            self.trainee.settle(MemoryPlan(**self.position.memory))
        self.events.log(f"going on from step {self.position.step}")

    def _train(self) -> None:
        if self.position.step == 0:
            self._measure_start()
        saved_at = time.monotonic()
        self.ledger.start(self.position.step, self.total_steps)
        while True:
            step = self.position.step
            # Before the next step, not after the last: a run that was stopped inside a checkpoint
            # makes it anew when it goes on.
            if self._ends_in_checkpoint(step) and step not in self.position.checkpoints:
                self._checkpoint_together()
                saved_at = time.monotonic()
            if step == self.total_steps or self.position.ended_early:
                break
            if self.group.any(self.should_stop()):
                self._save_state()
                raise Stopped(step)
            if time.monotonic() - saved_at > self.state_every_seconds:
                self._save_state()
                saved_at = time.monotonic()
            self._step(step)
            self.position.step = step + 1
            self.ledger.advance(step + 1, self.position)
        self._finish()

    def _step(self, step: int) -> None:
        """One optimizer step; nothing here waits for the device."""
        params = self.spec.params
        epoch, within = self.prepared.steps.locate(step)
        start = within * params.gradient_accumulation
        micro_batches = self._epoch_batches(epoch)[start : start + params.gradient_accumulation]
        pictures = sum(len(numbers) for numbers in micro_batches)
        made = [
            self.maker.make(numbers, step * params.gradient_accumulation + number, epoch)
            for number, numbers in enumerate(micro_batches)
        ]
        batches: list[Batch] = [batch for batch in made if batch is not None]
        stepper = self.trainee.stepper

        def gradients() -> torch.Tensor:
            return stepper.gradients(batches, pictures, self.trainee.memory.parts, step)

        loss, norm = stepper.apply(step, self._within_memory(gradients))
        if params.max_norm is not None:
            self.trainee.adapters.limit_norms(params.max_norm)
        if self.trainee.average is not None:
            self.trainee.average.update(step + 1)
        self.ledger.add(step + 1, epoch + 1, pictures, loss, norm)

    def _within_memory(self, work: Callable[[], Result]) -> Result:
        """Do something that changes nothing until it is whole; again with less if memory ends.

        Raises:
            OutOfMemory: there is nothing left to give up.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                short = error
            # Outside the handler, whose traceback holds on to the tensors that were too many.
            self._give_up_something(short)

    def _give_up_something(self, error: torch.OutOfMemoryError) -> None:
        params = self.spec.params
        following = self.trainee.memory.next_rung(params.batch_size, self.plan.smaller_storage)
        if following is None:
            raise OutOfMemory(
                f"the device has too little memory for {params.resolution} px, though "
                f"activations are computed twice, one picture at a time, over frozen weights of "
                f"one byte a number: {error}"
            )
        memory, why = following
        self.trainee.stepper.forget()
        error.__traceback__ = None
        if self.plan.device.type == "cuda":
            torch.cuda.empty_cache()
        self.trainee.settle(memory)
        self.base_hash = self.trainee.base_hash()
        self.position.memory = asdict(memory)
        step = self.position.step
        self.events.log(f"memory ran out at step {step + 1}; from here on {why}", "warning")

    def _epoch_batches(self, epoch: int) -> list[list[int]]:
        if self._batches[0] != epoch:
            steps = self.prepared.steps
            made = sampling.epoch_batches(
                steps.buckets(epoch), steps.batch_size, self.spec.seed, epoch
            )
            self._batches = (epoch, made)
        return self._batches[1]

    def _ends_in_checkpoint(self, step: int) -> bool:
        """Whether the step just done is the last of the run, or of an epoch that is kept."""
        epoch, within = self.prepared.steps.locate(step)
        kept = within == 0 and epoch % self.spec.params.save_every_n_epochs == 0
        return step == self.total_steps or (step > 0 and kept)

    def _measure_start(self) -> None:
        if not self.group.is_main:
            return
        measured = self._within_memory(lambda: self.watch.measure(0))
        self.position.first_validation_loss = measured.validation_loss
        self.ledger.send_measured(0, 0, measured)

    def _checkpoint_together(self) -> None:
        """The first process measures and writes; the others wait for what it says.

        Raises:
            Stopped: it was asked for; what the checkpoint had done is done anew later.
        """
        stopped = False
        if self.group.is_main:
            try:
                self._checkpoint()
            except Stopped:
                stopped = True
        else:
            self.position.checkpoints[self.position.step] = Measured()
        if self.group.any(stopped):
            raise Stopped(self.position.step)
        self.position.ended_early = self.group.any(self.position.ended_early)
        self.ledger.leave_out_time()

    def _checkpoint(self) -> None:
        """Measure, draw and write the LoRA as it is now."""
        step = self.position.step
        epoch = self.prepared.steps.locate(step - 1)[0]
        self.ledger.flush(self.position)
        measured = self._within_memory(lambda: self.watch.measure(epoch))
        self.ledger.send_measured(step, epoch + 1, measured)
        if self.spec.sample_prompts:
            self._within_memory(lambda: self._draw_samples(epoch + 1))
        folder = self.output / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        with self.trainee.answering():
            lora = self.trainee.lora()
        file = export_checkpoint(
            folder / f"{step:08d}.safetensors",
            lora,
            self.spec,
            self.trainee.shape,
            self.trainee.index,
            prediction=self.trainee.prediction,
            step=step,
            epoch=epoch + 1,
            steps=self.prepared.steps,
        )
        export_layouts(file, lora, self.spec, self.trainee.shape)
        self.position.checkpoints[step] = measured
        self.position.ended_early = self._is_past_its_best()
        self.events.send(
            "checkpoint",
            epoch=epoch + 1,
            step=step,
            path=str(file.path),
            sha256=file.sha256,
            bytes=file.bytes,
            file_metadata=file.metadata,
            **asdict(measured),
        )
        self._save_state()

    def _is_past_its_best(self) -> bool:
        """Whether the last so many checkpoints were no better than one before them."""
        patience = self.spec.params.early_stop_checkpoints
        ranks = [measured.rank for measured in self.position.checkpoints.values()]
        known = [rank for rank in ranks if rank is not None]
        if patience is None or len(known) <= patience:
            return False
        ended = min(known[-patience:]) >= min(known[:-patience])
        if ended and self.position.step < self.total_steps:
            self.events.log(
                f"ended early: the last {patience} checkpoints were no better than the best"
            )
        return ended

    def _draw_samples(self, epoch: int) -> None:
        spec = self.spec
        prompts = [
            SamplePrompt(prompt, spec.seed % 2**32 + number)
            for number, prompt in enumerate(spec.sample_prompts)
        ]
        with self.trainee.answering():
            paths = draw_samples(
                self.trainee.denoiser,
                self.prepared.vae,
                self.trainee.scheduler_config,
                prompts,
                self.output / "samples",
                device=self.plan.device,
                step=self.position.step,
                side=spec.params.resolution,
                steps=spec.sample_steps,
                guidance_scale=spec.sample_guidance_scale,
                pause=self._pause,
            )
        for wanted, path in zip(prompts, paths, strict=True):
            self.events.send(
                "sample",
                step=self.position.step,
                epoch=epoch,
                prompt=wanted.prompt,
                seed=wanted.seed,
                path=str(path),
            )

    def _pause(self) -> None:
        """Where a measurement may be stopped: nothing since the last step is half done.

        Raises:
            Stopped: it was asked for, and the state is saved.
        """
        if self.should_stop():
            self._save_state()
            raise Stopped(self.position.step)

    def _save_state(self) -> None:
        self.ledger.flush(self.position)
        if not self.group.is_main:
            return
        tensors, self.position.extra = self.trainee.tensors()
        path = save_state(self.output / "states", self.position, tensors)
        self.events.send("state", step=self.position.step, path=str(path))

    def _finish(self) -> None:
        """Choose the best checkpoint, and prove that the base is as it was."""
        if not self.group.is_main:
            return
        checkpoints = self.position.checkpoints
        ranks = {step: m.rank for step, m in checkpoints.items() if m.rank is not None}
        best = min(ranks, key=lambda step: (ranks[step], step)) if ranks else max(checkpoints)
        base_hash = self.trainee.base_hash()
        last = checkpoints[max(checkpoints)]
        self.events.send(
            "result",
            recommended_step=best,
            ended_early=self.position.ended_early and self.position.step < self.total_steps,
            first_loss=self.position.first_loss,
            last_loss=self.position.last_loss,
            first_validation_loss=self.position.first_validation_loss,
            last_validation_loss=last.validation_loss,
            prior_drift=last.prior_drift,
            base_hash=base_hash,
            base_hash_unchanged=base_hash == self.base_hash,
        )

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.prepared.steps.total_steps
