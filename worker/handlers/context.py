"""What a handler is given: its claim, a folder, and ways to tell how far it is."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.orm import Session

from app.database import JsonObject, transaction
from app.errors import LeaseLost
from app.jobs import lifecycle
from app.jobs.lifecycle import Claim
from app.jobs.models import EventType
from worker.lease import Lease
from worker.patience import AWAY, patiently
from worker.stages import Attempt

log = logging.getLogger(__name__)

# Writes what a job made, in the transaction that ends it.
Publish = Callable[[Session], None]

# Progress is for people: more often would only fill the table.
PROGRESS_SECONDS = 0.5
# Stages that are what the job is for; the others prepare it.
STEPPING = frozenset({"train", "denoise", "caption"})


class Stopped(Exception):
    """The handler ended early because its lease said so."""


@dataclass
class JobContext:
    """One attempt of one job."""

    claim: Claim
    lease: Lease
    folder: Path
    # Records a stop as soon as it is heard, where other jobs of a batch run on; see `leave`.
    on_leave: Callable[[], None] = field(default=lambda: None)
    # As it is watched; None where nobody does.
    attempt: Attempt | None = None
    _reported_at: float = field(default=0.0)

    def leave(self) -> None:
        """Say that the job has stopped, though the batch it was part of runs on."""
        self.on_leave()

    def current(self) -> AbstractContextManager[None]:
        """A block that is this job's alone, where others of its batch are worked at too."""
        return nullcontext() if self.attempt is None else self.attempt.current()

    def check(self) -> None:
        """Leave now if the job must stop.

        Raises:
            Stopped: it was canceled, is late, or the worker is stopping.
            LeaseLost: the job is another worker's.
        """
        if self.lease.stop_reason == "lost":
            raise LeaseLost(self.claim.job_id)
        if self.lease.should_stop():
            raise Stopped(self.lease.stop_reason)

    def progress(
        self,
        fraction: float,
        *,
        stage: str | None = None,
        step: int | None = None,
        total_steps: int | None = None,
        eta_s: float | None = None,
    ) -> None:
        """Report how far the job is (0..1); most calls in quick succession are dropped.

        So are those for which Postgres is away: the work itself need not wait.
        """
        if step and stage in STEPPING and self.attempt is not None:
            self.attempt.stepped()
        now = time.monotonic()
        if fraction < 1 and now - self._reported_at < PROGRESS_SECONDS:
            return
        self._reported_at = now
        try:
            with transaction() as session:
                lifecycle.report_progress(
                    session,
                    self.claim,
                    fraction=fraction,
                    step=step,
                    total_steps=total_steps,
                    stage=stage,
                    eta_s=eta_s,
                )
        except AWAY as error:
            log.warning("progress not told: %s", type(error).__name__)

    def record(self, type_: EventType, payload: JsonObject) -> None:
        """Append an event to the job's story."""
        patiently(lambda session: lifecycle.record(session, self.claim, type_, payload))
