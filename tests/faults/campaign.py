"""One run of the suite: work, faults in a random order, and what holds at the end."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import func, select

from app.database import transaction
from app.jobs.models import TERMINAL, Job, JobKind
from tests.faults import invariants
from tests.faults.harness.killer import WANTS, Killer, running_jobs
from tests.faults.harness.outages import CLAIM_SECONDS, Outages
from tests.faults.harness.proxy import Mode
from tests.faults.harness.work import Work

S3_MODES: tuple[Mode, ...] = ("refuse", "unavailable", "slow", "cut")
# So many are under way or wait at a time, so that faults always meet some.
OPEN_GENERATIONS = 6
# A fault that meets nothing so often in a row is given up.
TRIES = 12


@dataclass(frozen=True)
class Fault:
    """Something to do to the stack; False where it met nothing.

    Attributes:
        wants: the kind of job that it needs in the middle of its work, if any.
    """

    name: str
    do: Callable[[], bool]
    wants: JobKind | None = None


@dataclass(frozen=True)
class Plan:
    """How much of everything.

    Attributes:
        kills: of each named point, how many.
        open_trainings: how many are under way or wait at a time.
        pause_seconds: most seconds between two faults.
    """

    kills: dict[str, int]
    trainings: int
    open_trainings: int
    generations: int
    redis: int
    postgres: int
    s3: int
    freezes: int
    seed: int
    pause_seconds: float
    settle_seconds: float


@dataclass(kw_only=True)
class Findings:
    """What was done, and every violation."""

    figures: dict[str, Any] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    # Of each stage that was stopped in, the seconds it took.
    stops: dict[str, float] = field(default_factory=dict)
    violations: dict[str, list[str]] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether nothing was violated."""
        return not any(self.violations.values())


def run(plan: Plan, work: Work, say: Callable[[str], None]) -> Findings:
    """Disturb the work, wait for it to end, and judge."""
    began = time.monotonic()
    campaign = _Campaign(plan, work, say)
    campaign.disturb()
    campaign.settle()
    findings = campaign.judge()
    findings.figures["seconds"] = round(time.monotonic() - began)
    return findings


class _Campaign:
    def __init__(self, plan: Plan, work: Work, say: Callable[[str], None]) -> None:
        stack = work.stack
        self._plan = plan
        self._stack = stack
        self._work = work
        self._say = say
        self._random = random.Random(plan.seed)
        self._killer = Killer(stack, plan.seed)
        self._outages = Outages(stack, work)
        self._trainings = self._generations = 0
        self._missed: list[str] = []

    def disturb(self) -> None:
        """All faults of the plan, in a random order, while there is always work."""
        faults = self._faults()
        planned, tries = len(faults), Counter({fault.name: TRIES for fault in faults})
        while faults:
            self._stack.tend()
            self._keep_waiting(1 - len(faults) / planned)
            fault = self._one_for_now(faults)
            faults.remove(fault)
            if fault.do():
                self._say(fault.name)
                tries[fault.name] = TRIES
            elif tries[fault.name] > 0:
                # Its moment did not come; others go first.
                tries[fault.name] -= 1
                faults.insert(self._random.randrange(len(faults) + 1), fault)
            else:
                self._missed.append(fault.name)
            time.sleep(self._random.uniform(0, self._plan.pause_seconds))

    def _one_for_now(self, faults: list[Fault]) -> Fault:
        """The next fault for which there is a job in the middle of its work."""
        working = {
            "training" if job.job_id.startswith("trn_") else "generation"
            for job in running_jobs()
            if job.stage == "train" or job.job_id.startswith("gen_")
        }
        return next((fault for fault in faults if fault.wants in {None, *working}), faults[0])

    def settle(self) -> None:
        """Submit what is left of the plan, and wait for all to end in peace."""
        while self._trainings < self._plan.trainings:
            self._submit_training()
        while self._generations < self._plan.generations:
            self._submit_generation()
        ends = time.monotonic() + self._plan.settle_seconds
        self._let_end(ends)
        # What a killed worker has left must go by itself, its folders with the next job.
        while time.monotonic() < ends and self._stack.leftover_processes():
            time.sleep(0.2)
        while time.monotonic() < ends and self._stack.attempt_folders():
            self._submit_generation()
            self._let_end(ends)

    def _let_end(self, ends: float) -> None:
        while time.monotonic() < ends and self._unfinished():
            self._stack.tend()
            time.sleep(0.2)

    def judge(self) -> Findings:
        """Every figure, and every violation under the sentence it breaks."""
        job_ids = [job.job_id for job in self._work.jobs]
        lost = invariants.lost_jobs(job_ids)
        swept, left = invariants.orphans_after_sweep()
        after = self._outages.claimed_after
        logs = [
            path
            for name in self._stack.workers
            for path in (self._stack.servers.data_dir / "logs").glob(f"{name}.log*")
        ]
        violations = {
            "a fault met nothing": self._missed,
            "a job was lost": lost,
            "a story is not true": invariants.untrue_stories(job_ids),
            "a result was published twice, or not wholly": invariants.published_twice(job_ids),
            "a job was ended by a stale attempt": invariants.ended_by_strangers(logs),
            "a file was shown by a stale attempt": invariants.foreign_files(),
            "a row points at a missing object": invariants.missing_objects(),
            "an object is nobody's after the sweep": left,
            "a training did not go on from its newest state": invariants.begun_anew(job_ids),
            "a result differs from its undisturbed run": [] if lost else self._work.differences(),
            "queued work was claimed too late": [
                f"{seconds:.0f} s after Redis came back empty"
                for seconds in after
                if seconds > CLAIM_SECONDS
            ],
            "a folder outlived its attempt": [
                folder.name for folder in self._stack.attempt_folders()
            ],
            "a process outlived its worker": [
                str(process) for process in self._stack.leftover_processes()
            ],
        }
        figures = {
            "trainings": self._trainings,
            "generations": self._generations,
            "kills": self._killer.hits.total(),
            "redis came back empty": self._outages.redis,
            "postgres restarted": self._outages.postgres,
            **{f"s3: {mode}": count for mode, count in sorted(self._outages.s3.items())},
            "workers frozen past their lease": len(self._outages.frozen),
            "attempts": self._attempts(job_ids),
            "trainings interrupted": self._interrupted(job_ids),
            "jobs claimed after an empty redis": len(after),
            "slowest of them, seconds": round(max(after, default=0.0), 1),
            "orphans swept": swept,
        }
        return Findings(
            figures=figures, kills=dict(sorted(self._killer.hits.items())), violations=violations
        )

    def _faults(self) -> list[Fault]:
        outages = self._outages
        faults: list[Fault] = []
        for point, count in self._plan.kills.items():
            kill = Fault(f"killed: {point}", partial(self._killer.kill, point), WANTS.get(point))
            faults += [kill] * count
        faults += [Fault("redis emptied", outages.empty_redis)] * self._plan.redis
        faults += [Fault("postgres restarted", outages.restart_postgres)] * self._plan.postgres
        for number in range(self._plan.s3):
            mode = S3_MODES[number % len(S3_MODES)]
            faults.append(Fault(f"s3: {mode}", partial(outages.disturb_s3, mode)))
        freeze = Fault("worker frozen", outages.freeze_worker, "training")
        faults += [freeze] * self._plan.freezes
        self._random.shuffle(faults)
        return faults

    def _keep_waiting(self, done: float) -> None:
        """As many unfinished jobs of each kind as there should be, and their share of the plan.

        Args:
            done: how much of the plan's faults there were, 0..1.
        """
        with transaction() as session:
            unfinished = Counter(
                session.scalars(select(Job.kind).where(Job.status.not_in(TERMINAL)))
            )
        trainings = round(self._plan.trainings * done) - self._trainings
        for _ in range(max(trainings, self._plan.open_trainings - unfinished["training"])):
            self._submit_training()
        generations = round(self._plan.generations * done) - self._generations
        for _ in range(max(generations, OPEN_GENERATIONS - unfinished["generation"])):
            self._submit_generation()

    def _submit_training(self) -> None:
        self._work.submit_training(self._trainings)
        self._trainings += 1

    def _submit_generation(self) -> None:
        self._work.submit_generation(self._generations)
        self._generations += 1

    def _unfinished(self) -> int:
        with transaction() as session:
            return (
                session.scalar(
                    select(func.count()).select_from(Job).where(Job.status.not_in(TERMINAL))
                )
                or 0
            )

    def _attempts(self, job_ids: list[str]) -> int:
        with transaction() as session:
            return int(
                session.scalar(select(func.sum(Job.attempt)).where(Job.id.in_(job_ids))) or 0
            )

    def _interrupted(self, job_ids: list[str]) -> int:
        with transaction() as session:
            return int(
                session.scalar(
                    select(func.count())
                    .select_from(Job)
                    .where(Job.id.in_(job_ids), Job.kind == "training", Job.attempt > 1)
                )
                or 0
            )
