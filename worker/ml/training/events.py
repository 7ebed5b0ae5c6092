"""What the trainer tells whoever started it: JSON lines on standard output, nothing else there.

* `progress`: stage (load, prepare, train), step, total_steps, fraction, eta_s
* `metrics`: rows, each with step, epoch, loss, lr, grad_norm, images_per_second, memory_bytes,
  validation_loss, base_validation_loss and prior_drift; what a row does not tell is null, and a
  later row of the same step may; of steps, also seconds and pictures: all that these steps took
* `sample`: step, epoch, prompt, seed, path
* `checkpoint`: step, epoch, path, sha256, bytes, validation_loss, base_validation_loss,
  prior_drift, file_metadata
* `state`: step, path
* `log`: level, message
* `result`: recommended_step, ended_early, first_loss, last_loss, first_validation_loss,
  last_validation_loss, prior_drift, base_hash, base_hash_unchanged
* `stopped`: step, null when it was stopped before the first could be taken
* `error`: code, message, retryable
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import IO, Any

PROGRESS_SECONDS = 0.5


class Events:
    """Writes events to a stream that nobody else writes to."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._listeners: list[Callable[[str, dict[str, Any]], None]] = []
        self._progress_at = 0.0

    @classmethod
    def on_stdout(cls) -> "Events":
        """Take standard output for events alone; what libraries print goes to standard error."""
        stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return cls(stream)

    @classmethod
    def nowhere(cls) -> "Events":
        """For a process that leaves the telling to another."""
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return cls(open(os.devnull, "w", encoding="utf-8"))

    def send(self, type_: str, **fields: Any) -> None:
        """Write one event at once."""
        for listener in self._listeners:
            listener(type_, fields)
        # A lone surrogate in a caption must not end the run; ASCII carries everything.
        self._stream.write(json.dumps({"type": type_, **fields}) + "\n")
        self._stream.flush()

    def hear(self, listener: Callable[[str, dict[str, Any]], None]) -> None:
        """Let somebody in this process hear every event's type and fields too."""
        self._listeners.append(listener)

    def log(self, message: str, level: str = "info") -> None:
        """Tell a person something."""
        self.send("log", level=level, message=message)

    def progress(
        self,
        stage: str,
        *,
        step: int | None = None,
        total_steps: int | None = None,
        fraction: float = 0.0,
        eta_s: float | None = None,
        last: bool = False,
    ) -> None:
        """Say how far it is; at most about two a second, but `last` always goes out."""
        now = time.monotonic()
        if not last and now - self._progress_at < PROGRESS_SECONDS:
            return
        self._progress_at = now
        self.send(
            "progress",
            stage=stage,
            step=step,
            total_steps=total_steps,
            fraction=round(fraction, 5),
            eta_s=None if eta_s is None else round(eta_s, 1),
        )
