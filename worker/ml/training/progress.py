"""The ledger of a run: losses wait on the device, are read many at once, and are told in order."""

import math
import resource
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from worker.ml.training.errors import LossNotFinite
from worker.ml.training.events import Events
from worker.ml.training.learning.optimisers import learning_rate
from worker.ml.training.spec import TrainingSpec
from worker.ml.training.state import Measured, Position
from worker.ml.training.trainee import Trainee

# How many steps' losses may wait on the device before they are read.
FLUSH_STEPS = 10
FLUSH_SECONDS = 1.0
# Noise and velocity have a variance near 1, so a loss of 1 is that of a UNet that answers zero.
RUNAWAY_LOSS = 10.0
_NAMES = (
    "loss",
    "lr",
    "grad_norm",
    "images_per_second",
    "memory_bytes",
    "validation_loss",
    "base_validation_loss",
    "prior_drift",
)


@dataclass
class _Step:
    """One step's numbers, still on the device."""

    step: int
    epoch: int
    pictures: int
    lr: float
    loss: Tensor
    grad_norm: Tensor


class Ledger:
    """What each step did, on its way to whoever listens."""

    def __init__(self, spec: TrainingSpec, events: Events, trainee: Trainee) -> None:
        self._spec = spec
        self._events = events
        self._trainee = trainee
        self._waiting: list[_Step] = []
        self._first = 0
        self._total = 1
        self._started = self._flushed_at = time.monotonic()

    def start(self, step: int, total: int) -> None:
        """From here on time counts: the run stands at `step` of `total`."""
        self._first, self._total = step, total
        self._started = self._flushed_at = time.monotonic()

    def add(self, step: int, epoch: int, pictures: int, loss: Tensor, norm: Tensor) -> None:
        """A step (from 1) of an epoch (from 1), with its loss and its gradient's norm."""
        lr = learning_rate(self._trainee.optimizer)
        self._waiting.append(_Step(step, epoch, pictures, lr, loss, norm))

    def advance(self, step: int, position: Position) -> None:
        """Tell how far the run is, and read what has waited long enough."""
        waited = time.monotonic() - self._flushed_at
        if len(self._waiting) >= FLUSH_STEPS or waited > FLUSH_SECONDS:
            self.flush(position)
        pace = (time.monotonic() - self._started) / (step - self._first)
        self._events.progress(
            "train",
            step=step,
            total_steps=self._total,
            fraction=step / self._total,
            eta_s=pace * (self._total - step),
            last=step == self._total,
        )

    def flush(self, position: Position) -> None:
        """Read the waiting losses off the device, all at once, and tell them.

        Raises:
            LossNotFinite: one of them, or its gradient, is NaN, infinite or beyond reason.
        """
        if not self._waiting:
            return
        numbers = torch.stack(
            [torch.stack([each.loss, each.grad_norm.to(each.loss)]) for each in self._waiting]
        ).tolist()
        now = time.monotonic()
        seconds = max(now - self._flushed_at, 1e-9)
        pictures = sum(each.pictures for each in self._waiting)
        speed = round(pictures / seconds, 3)
        memory = self._memory_bytes()
        rows = [
            _row(
                step=each.step,
                epoch=each.epoch,
                loss=loss,
                lr=each.lr,
                grad_norm=norm,
                images_per_second=speed,
                memory_bytes=memory,
            )
            for each, (loss, norm) in zip(self._waiting, numbers, strict=True)
        ]
        self._waiting, self._flushed_at = [], now
        for row in rows:
            self._check(row)
        if position.first_loss is None:
            position.first_loss = rows[0]["loss"]
        position.last_loss = rows[-1]["loss"]
        self._events.send("metrics", rows=rows, seconds=round(seconds, 4), pictures=pictures)

    def send_measured(self, step: int, epoch: int, measured: Measured) -> None:
        """A row of what was measured after a step; its loss went out before."""
        self._events.send("metrics", rows=[_row(step=step, epoch=epoch, **asdict(measured))])

    def leave_out_time(self) -> None:
        """What has passed since the last rows were told was not the steps'."""
        self._flushed_at = time.monotonic()

    def _check(self, row: dict[str, Any]) -> None:
        advice = f"try a learning rate below {self._spec.params.learning_rate:g}"
        if not row["loss"] <= RUNAWAY_LOSS:
            raise LossNotFinite(f"the loss became {row['loss']} at step {row['step']}; {advice}")
        # A loss scaler leaves out the steps whose gradient overflowed; without one they are in the
        # weights already, and the next loss would be the first to show it.
        scaled = self._trainee.stepper.scaler.is_enabled()
        if not (math.isfinite(row["grad_norm"]) or scaled):
            raise LossNotFinite(
                f"the gradient became {row['grad_norm']} at step {row['step']}; {advice}"
            )

    def _memory_bytes(self) -> int:
        device = self._trainee.plan.device
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _row(**known: Any) -> dict[str, Any]:
    return {**dict.fromkeys(_NAMES), **known}
