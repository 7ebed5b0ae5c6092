"""How long a cancel takes at every stage of a job, and how a worker stops in the middle of one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.database import transaction
from app.jobs.models import TERMINAL, Job
from app.trainings.models import Training
from tests.faults.harness.killer import Running, running_jobs
from tests.faults.harness.stack import Stack, trainer_under
from tests.faults.harness.work import Work

GENERATION_SECONDS = 2.0
TRAINING_SECONDS = 10.0
STOP_SECONDS = 30.0
# How long a stage is waited for: a trainer has to load its libraries first.
STAGE_SECONDS = 60.0
# Longer than a cancel may take, so that none waits for a request to end.
MARGIN_SECONDS = 3.0
MANY_STEPS = 2000


@dataclass(frozen=True)
class Stop:
    """A measured stop and its limit."""

    stage: str
    seconds: float
    limit: float
    # What became of the job that is not as it should be.
    wrong: str | None = None

    @property
    def violation(self) -> str | None:
        """A sentence where it was too slow or went wrong."""
        if self.wrong is not None:
            return f"{self.stage}: {self.wrong}"
        if self.seconds > self.limit:
            return f"{self.stage}: {self.seconds:.1f} s, at most {self.limit:g} s"
        return None


class Stops:
    """Measures one stage after the other, with nothing else queued."""

    def __init__(self, stack: Stack, work: Work) -> None:
        self._stack = stack
        self._work = work

    def generation_in_queue(self) -> Stop:
        """Canceled while no worker takes it."""
        with self._stack.all_workers_frozen():
            job_id = self._work.start_generation()
            return self._cancel("generation, queued", job_id)

    def generation_at_the_start(self) -> Stop:
        """Canceled as soon as it is claimed, in a child that has loaded no base model."""
        for name in self._stack.workers:
            self._stack.renew_child(name)
        job_id = self._work.start_generation(steps=150, num_images=8)
        self._wait_for(job_id, lambda _: True)
        return self._cancel("generation, claimed and loading", job_id)

    def generation_in_a_step(self) -> Stop:
        """Canceled while it is drawn."""
        job_id = self._work.start_generation(steps=150, num_images=8)
        self._wait_for(job_id, lambda job: job.stage == "denoise")
        return self._cancel("generation, mid-step", job_id)

    def generation_in_its_upload(self) -> Stop:
        """Canceled while storage takes its time over the pictures."""
        # Drawn once, so that all its files are on this machine.
        with self._slow_storage(GENERATION_SECONDS) as arrived:
            job_id = self._work.start_generation(steps=2)
            arrived()
            return self._cancel("generation, uploading", job_id)

    def training_in_queue(self) -> Stop:
        """Canceled while no worker takes it."""
        with self._stack.all_workers_frozen():
            job_id = self._work.start_training()
            return self._cancel("training, queued", job_id)

    def training_at_the_start(self) -> Stop:
        """Canceled while the trainer loads its libraries and the base model."""
        job_id = self._work.start_training(max_steps=MANY_STEPS)
        self._wait_for(job_id, lambda job: trainer_under(job.pid) is not None)
        return self._cancel("training, loading", job_id)

    def training_in_preparation(self) -> Stop:
        """Canceled while pictures are encoded; of a size that no cache has."""
        job_id = self._work.start_training(max_steps=MANY_STEPS, resolution=96, flip_augment=True)
        self._wait_for(job_id, lambda job: job.stage == "prepare")
        return self._cancel("training, encoding", job_id)

    def training_in_a_step(self) -> Stop:
        """Canceled while it trains."""
        job_id = self._work.start_training(max_steps=MANY_STEPS)
        self._wait_for(job_id, lambda job: job.stage == "train" and job.step > 0)
        return self._cancel("training, mid-step", job_id)

    def training_in_its_upload(self) -> Stop:
        """Canceled while storage takes its time over a state."""
        job_id = self._work.start_training(max_steps=MANY_STEPS)
        self._wait_for(job_id, lambda job: job.stage == "train" and job.step > 0)
        with self._slow_storage(TRAINING_SECONDS) as arrived:
            arrived()
            return self._cancel("training, uploading", job_id)

    def worker_in_training(self) -> Stop:
        """SIGTERM to a worker that trains: its state is saved, the job queued, the process gone."""
        job_id = self._work.start_training(max_steps=MANY_STEPS)
        stage = "SIGTERM mid-training"
        job = self._wait_for(job_id, lambda job: job.stage == "train" and job.step > 3)
        worker = self._stack.worker_of(job.pid)
        assert worker is not None, "the job is run by none of the workers"
        family = self._stack.family(worker)
        # The other one would take the job at once.
        with self._stack.all_workers_frozen(but=worker):
            began = time.monotonic()
            worker.ask_to_stop()
            while any(process.is_running() for process in family) and _since(began) < STAGE_SECONDS:
                worker.is_alive()
                time.sleep(0.05)
            seconds = _since(began)
            with transaction() as session:
                row, state = session.get_one(Job, job_id), session.get_one(Training, job_id).state
            wrong = None
            if row.status != "queued" or row.failures != 0:
                wrong = f"the job is {row.status} with {row.failures} failures"
            elif state is None or state["step"] < job.step:
                wrong = f"the state is {state and state['step']}, after step {job.step}"
            self._work.cancel(job_id)
        self._stack.tend()
        return Stop(stage, seconds, STOP_SECONDS, wrong)

    @property
    def all(self) -> list[Callable[[], Stop]]:
        """Every stage."""
        return [
            self.generation_in_queue,
            self.generation_at_the_start,
            self.generation_in_a_step,
            self.generation_in_its_upload,
            self.training_in_queue,
            self.training_at_the_start,
            self.training_in_preparation,
            self.training_in_a_step,
            self.training_in_its_upload,
            self.worker_in_training,
        ]

    def _cancel(self, stage: str, job_id: str) -> Stop:
        began = time.monotonic()
        self._work.cancel(job_id)
        status = "running"
        while status not in TERMINAL and _since(began) < STAGE_SECONDS:
            time.sleep(0.02)
            with transaction() as session:
                status = session.get_one(Job, job_id).status
        limit = TRAINING_SECONDS if job_id.startswith("trn_") else GENERATION_SECONDS
        wrong = None if status == "canceled" else f"the job {status}"
        return Stop(stage, _since(began), limit, wrong)

    def _wait_for(self, job_id: str, stage: Callable[[Running], bool]) -> Running:
        began = time.monotonic()
        while _since(began) < STAGE_SECONDS:
            self._stack.tend()
            for job in running_jobs():
                if job.job_id == job_id and stage(job):
                    return job
            time.sleep(0.01)
        raise AssertionError(f"{job_id} never came to the stage it was to be stopped in")

    @contextmanager
    def _slow_storage(self, limit: float) -> Iterator[Callable[[], None]]:
        """Storage that holds every request up; what is yielded waits for the first."""
        proxy = self._stack.proxy
        before = proxy.disturbed
        proxy.slow_seconds, proxy.mode = limit + MARGIN_SECONDS, "slow"

        def arrived() -> None:
            began = time.monotonic()
            while proxy.disturbed == before and _since(began) < STAGE_SECONDS:
                time.sleep(0.02)

        try:
            yield arrived
        finally:
            proxy.mode, proxy.slow_seconds = "pass", 1.5


def _since(began: float) -> float:
    return time.monotonic() - began
