"""SIGKILL at named points: each is a way to wait for a moment, and a process that dies in it.

Nothing in the product helps: the moments are seen in the database, in a worker's folder, and by the
proxy before S3.
"""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import select, text

from app.database import get_engine, transaction
from app.jobs.models import Job, JobKind
from tests.faults.harness.proxy import Moment, Trap
from tests.faults.harness.stack import Stack, trainer_under

# How long a point is waited for before another is tried.
PATIENCE_SECONDS = 6.0
GLANCE_SECONDS = 0.01
# Points that only a job of this kind comes to.
WANTS: Mapping[str, JobKind] = {
    "trainer mid-step": "training",
    "child mid-step of a training": "training",
    "child mid-step of a generation": "generation",
    "mid-checkpoint": "training",
    "mid-upload of a state": "training",
    "mid-upload of a checkpoint": "training",
    "mid-upload of a picture": "generation",
    "state stored, no row": "training",
    "checkpoint stored, no row": "training",
    "picture stored, no row": "generation",
}


@dataclass(frozen=True)
class Running:
    """A job that is being run now, and the pool child that runs it."""

    job_id: str
    attempt: int
    pid: int
    stage: str | None
    step: int


class Killer:
    """Kills at a point on request, and counts what it hit."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self._stack = stack
        self._random = random.Random(seed)
        self.hits: Counter[str] = Counter()
        self._points: Mapping[str, Callable[[], bool]] = {
            "claim": self._at_claim,
            "trainer mid-step": lambda: self._in_training(self._kill_trainer),
            "child mid-step of a training": lambda: self._in_training(self._kill_child),
            "child mid-step of a generation": self._in_generation,
            "mid-checkpoint": self._in_state,
            "mid-upload of a state": lambda: self._in_upload("/state/", "half"),
            "mid-upload of a checkpoint": lambda: self._in_upload("/checkpoints/", "half"),
            "mid-upload of a picture": lambda: self._in_upload(".png", "half", "gen_"),
            "state stored, no row": lambda: self._in_upload("manifest.json", "stored"),
            "checkpoint stored, no row": lambda: self._in_upload("/checkpoints/", "stored"),
            "picture stored, no row": lambda: self._in_upload(".png", "stored", "gen_"),
            "any moment, child": self._any_child,
            "any moment, trainer": self._any_trainer,
            "any moment, worker": self._any_parent,
        }

    @property
    def points(self) -> list[str]:
        """Their names; all that were asked for must be hit."""
        return list(self._points)

    def kill(self, point: str) -> bool:
        """Wait for a moment of this kind and kill in it; False where none came in time."""
        hit = self._points[point]()
        if hit:
            self.hits[point] += 1
        return hit

    # --- the moments ---------------------------------------------------------------------------

    def _at_claim(self) -> bool:
        """As soon as a claim is seen."""
        seen = _newest_change()

        def just_claimed() -> bool:
            nonlocal seen
            claimed, seen = _claims_after(seen)
            return any(self._kill_child(job) for job in self._running() if job.job_id in claimed)

        return _within(PATIENCE_SECONDS, just_claimed)

    def _in_training(self, kill: Callable[[Running], bool]) -> bool:
        def at_a_step() -> bool:
            return any(
                kill(job)
                for job in self._shuffled()
                if job.job_id.startswith("trn_") and job.stage == "train" and job.step > 0
            )

        return _within(PATIENCE_SECONDS, at_a_step)

    def _in_generation(self) -> bool:
        def at_a_step() -> bool:
            return any(
                self._kill_child(job)
                for job in self._shuffled()
                if job.job_id.startswith("gen_") and job.stage == "denoise"
            )

        return _within(PATIENCE_SECONDS, at_a_step)

    def _in_state(self) -> bool:
        """While the trainer writes a state under its temporary name."""
        jobs: list[tuple[Path, Running]] = []
        looked_at = 0.0

        def being_written() -> bool:
            nonlocal jobs, looked_at
            if time.monotonic() - looked_at > 0.3:
                looked_at = time.monotonic()
                jobs = [
                    (folder / "output" / "states", job)
                    for job in self._running()
                    for folder in self._stack.attempt_folders()
                    if folder.name.startswith(f"{job.job_id}-{job.attempt}-")
                ]
            return any(_has_hidden(folder) and self._kill_trainer(job) for folder, job in jobs)

        # It lasts for milliseconds, so it is looked for without a pause.
        return _within(PATIENCE_SECONDS, being_written, 0.0)

    def _in_upload(self, part: str, moment: Moment, of: str = "trn_") -> bool:
        """While a file of this name passes the proxy, or when it is stored and nothing more."""

        def kill_its_worker(key: str) -> None:
            job_id = key.split("/")[3]
            for job in self._running():
                if job.job_id == job_id and self._kill_child(job):
                    killed.append(job_id)

        killed: list[str] = []
        trap = Trap(lambda key: part in key and f"/jobs/{of}" in key, moment, kill_its_worker)
        self._stack.proxy.set_trap(trap)
        trap.sprung.wait(PATIENCE_SECONDS)
        self._stack.proxy.set_trap(None)
        return bool(killed)

    def _any_child(self) -> bool:
        time.sleep(self._random.uniform(0, 1))
        return any(self._kill_child(job) for job in self._shuffled())

    def _any_trainer(self) -> bool:
        time.sleep(self._random.uniform(0, 1))
        return any(self._kill_trainer(job) for job in self._shuffled())

    def _any_parent(self) -> bool:
        time.sleep(self._random.uniform(0, 1))
        for job in self._shuffled():
            worker = self._stack.worker_of(job.pid)
            if worker is not None:
                self._stack.kill_parent(worker)
                return True
        return False

    # --- who dies ------------------------------------------------------------------------------

    def _kill_child(self, job: Running) -> bool:
        if self._stack.worker_of(job.pid) is None:
            return False
        self._stack.bereave(job.pid)
        return _kill(job.pid)

    def _kill_trainer(self, job: Running) -> bool:
        if self._stack.worker_of(job.pid) is None:
            return False
        trainer = trainer_under(job.pid)
        return trainer is not None and _kill(trainer.pid)

    def _running(self) -> list[Running]:
        return running_jobs()

    def _shuffled(self) -> list[Running]:
        jobs = self._running()
        self._random.shuffle(jobs)
        return jobs


def running_jobs() -> list[Running]:
    """The jobs that workers run now, by their rows."""
    with transaction() as session:
        rows = session.execute(
            select(Job.id, Job.attempt, Job.worker_id, Job.progress_stage, Job.progress_step).where(
                Job.status == "running", Job.queue.in_(("train", "generate"))
            )
        ).all()
    return [
        Running(
            row.id,
            row.attempt,
            int(row.worker_id.rpartition(":")[2]),
            row.progress_stage,
            row.progress_step or 0,
        )
        for row in rows
    ]


def _newest_change() -> int:
    with get_engine().connect() as connection:
        return int(
            connection.execute(
                text("SELECT coalesce(max(number), 0) FROM witness.jobs")
            ).scalar_one()
        )


def _claims_after(number: int) -> tuple[set[str], int]:
    """Jobs claimed since a change, and the newest change."""
    with get_engine().connect() as connection:
        rows = connection.execute(
            text("SELECT number, job_id, status FROM witness.jobs WHERE number > :number"),
            {"number": number},
        ).all()
    claimed = {row.job_id for row in rows if row.status == "running"}
    return claimed, max([number, *(row.number for row in rows)])


def _within(seconds: float, happens: Callable[[], bool], pause: float = GLANCE_SECONDS) -> bool:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if happens():
            return True
        time.sleep(pause)
    return False


def _has_hidden(folder: Path) -> bool:
    try:
        return any(name.startswith(".") for name in os.listdir(folder))
    except FileNotFoundError:
        return False


def _kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
