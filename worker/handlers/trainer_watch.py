"""The trainer's part of traces, figures and logs, drawn from what it tells.

It knows of none of these: it runs in a process of its own, and may be run from a shell.
"""

import time
from collections.abc import Sequence

from app import tracing
from app.database import JsonObject
from worker import metrics
from worker.stages import observe

# Steps of about so long are one span: a training of hours has hundreds of them, not thousands.
SPAN_SECONDS = 10.0
NANOSECONDS = 1_000_000_000


class TrainerWatch:
    """What the trainer is at, from its start to its end.

    `at` is when it told so, by the wall clock in nanoseconds as spans have it: who listens may be
    late, while he stores a file.
    """

    def __init__(self) -> None:
        self._stage: str | None = None
        # When what is under way began.
        self._since = time.time_ns()
        self._steps: list[JsonObject] = []
        self._step_seconds = 0.0
        self._stepped_at = self._since

    def progress(self, stage: str, at: int) -> None:
        """It is at `prepare`, `load` or `train`."""
        if stage == self._stage:
            return
        self._close(at)
        self._stage = stage

    def steps(self, rows: Sequence[JsonObject], seconds: float, pictures: int, at: int) -> None:
        """It has taken these steps, one after another, the last just now."""
        metrics.TRAINING_STEPS.inc(len(rows))
        metrics.TRAINING_IMAGES.inc(pictures)
        for _ in rows:
            metrics.TRAINING_STEP_SECONDS.observe(seconds / len(rows))
        metrics.TRAINING_SPEED.set(pictures / seconds)
        memory = rows[-1].get("memory_bytes")
        if memory is not None:
            metrics.TRAINING_MEMORY.set(memory)
        if not self._steps:
            # What came before them (measuring at the start, a checkpoint) was not theirs.
            self._since = at - round(seconds * NANOSECONDS)
        self._stepped_at = at
        self._steps += rows
        self._step_seconds += seconds
        if self._step_seconds >= SPAN_SECONDS:
            self._close(at)

    def checkpoint(self, step: int, at: int) -> None:
        """It has measured, drawn samples and written a checkpoint, since its last steps."""
        self._close(at)
        observe("checkpoint", self._span("trainer checkpoint", at, {"lorawright.step": step}))

    def ended(self) -> None:
        """It tells no more."""
        self._close(time.time_ns())
        metrics.TRAINING_SPEED.set(0)
        metrics.TRAINING_MEMORY.set(0)

    def _close(self, at: int) -> None:
        """End the span of what was under way until then."""
        if self._steps:
            self._span(
                "trainer steps",
                # What has come since, such as the measuring for a checkpoint, is not theirs.
                self._stepped_at,
                {
                    "lorawright.first_step": self._steps[0]["step"],
                    "lorawright.last_step": self._steps[-1]["step"],
                    "lorawright.loss": self._steps[-1]["loss"],
                },
            )
            self._steps, self._step_seconds = [], 0.0
        elif self._stage is not None and self._stage != "train":
            observe(self._stage, self._span(f"trainer {self._stage}", at, {}))
            self._stage = None

    def _span(self, name: str, at: int, attributes: dict[str, float]) -> float:
        """A span from the last one's end to then; its seconds."""
        began, self._since = self._since, at
        span = tracing.tracer().start_span(name, start_time=began, attributes=attributes)
        span.end(at)
        return (at - began) / NANOSECONDS
