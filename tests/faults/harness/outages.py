"""Faults besides kills: servers that go away, come back empty, or are slow; a worker that freezes.

Each leaves the stack as it found it, and says what was seen.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field

import psutil
from sqlalchemy import select

from app.broker import get_redis
from app.database import transaction
from app.jobs.models import Job
from tests.faults.harness import history
from tests.faults.harness.killer import Running, running_jobs
from tests.faults.harness.proxy import Mode
from tests.faults.harness.stack import LEASE_SECONDS, Stack
from tests.faults.harness.work import Work

# What the design promises: queued work is claimed again so soon after Redis came back empty.
CLAIM_SECONDS = 60.0
OUTAGE_SECONDS = 8.0
QUIET_SECONDS = 90.0
FEW = 10


@dataclass
class Outages:
    """What was done, and what was seen."""

    stack: Stack
    work: Work
    # Of each job that was queued when Redis came back: seconds until it was claimed.
    claimed_after: list[float] = field(default_factory=list)
    redis: int = 0
    postgres: int = 0
    s3: dict[Mode, int] = field(default_factory=dict)
    # Attempts that slept past their lease.
    frozen: list[Running] = field(default_factory=list)

    def empty_redis(self) -> bool:
        """Kill Redis, submit while it is away, start it empty; wait for the queued to be claimed.

        False where nothing was queued, so that nothing was shown.
        """
        redis = self.stack.servers.redis
        assert redis is not None
        # A training that waits would be waited for until another has ended, and the last of many
        # generations until the others have; that says nothing of bells.
        if not self._until_few_wait():
            return False
        redis.kill()
        # Taken all the same; no bell rings for it.
        self.work.submit_generation(self.redis)
        self.stack.restart_redis_empty()
        back = time.time()
        assert get_redis().dbsize() <= 20, "Redis came back with what it had"
        with transaction() as session:
            waiting = set(session.scalars(select(Job.id).where(Job.status == "queued")))
        if not waiting:
            return False
        ends = time.monotonic() + CLAIM_SECONDS + 5
        while waiting and time.monotonic() < ends:
            self.stack.tend()
            for job_id in list(waiting):
                claims = [
                    change.at
                    for change in history.changes(job_id)
                    if change.status == "running" and change.at > back
                ]
                if claims:
                    self.claimed_after.append(claims[0] - back)
                    waiting.discard(job_id)
            time.sleep(0.1)
        self.claimed_after += [float("inf")] * len(waiting)
        self.redis += 1
        return True

    def _until_few_wait(self) -> bool:
        """No training, and no more generations than are always submitted ahead."""
        ends = time.monotonic() + QUIET_SECONDS
        while time.monotonic() < ends:
            self.stack.tend()
            with transaction() as session:
                waiting = session.scalars(select(Job.kind).where(Job.status == "queued")).all()
            if "training" not in waiting and len(waiting) <= FEW:
                return True
            time.sleep(0.1)
        return False

    def restart_postgres(self) -> bool:
        """By turns killed and stopped in its fast way, always with jobs running."""
        if not running_jobs():
            return False
        self.stack.restart_postgres(kill=self.postgres % 2 == 0)
        self.postgres += 1
        return True

    def disturb_s3(self, mode: Mode) -> bool:
        """Until a few requests have met it; False where none came."""
        proxy = self.stack.proxy
        before = proxy.disturbed
        proxy.mode = mode
        ends = time.monotonic() + OUTAGE_SECONDS
        try:
            while proxy.disturbed < before + 4 and time.monotonic() < ends:
                time.sleep(0.05)
        finally:
            proxy.mode = "pass"
        if proxy.disturbed == before:
            return False
        self.s3[mode] = self.s3.get(mode, 0) + 1
        return True

    def freeze_worker(self) -> bool:
        """Stop a worker with all it started until another has its training, and let it go on."""
        for job in running_jobs():
            worker = self.stack.worker_of(job.pid)
            if worker is None or not job.job_id.startswith("trn_") or not job.step:
                continue
            family = self.stack.family(worker)
            _signal(family, signal.SIGSTOP)
            try:
                taken = self._taken_by_another(job)
            finally:
                _signal(family, signal.SIGCONT)
            if taken:
                self.frozen.append(job)
            return taken
        return False

    def _taken_by_another(self, job: Running) -> bool:
        ends = time.monotonic() + LEASE_SECONDS + 20
        while time.monotonic() < ends:
            self.stack.tend()
            with transaction() as session:
                now = session.get_one(Job, job.job_id)
                if now.attempt > job.attempt:
                    return True
                if now.status not in ("running", "queued"):
                    # It had come to its end just before.
                    return False
            time.sleep(0.1)
        return False


def _signal(family: list[psutil.Process], number: signal.Signals) -> None:
    # The parent first, so that it does not miss its children.
    for process in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
