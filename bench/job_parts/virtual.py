"""Waiting times by a clock that jumps: real submissions, claims and ends, and nobody sleeps.

Which job a claim takes does not depend on how long jobs take, only on the order in which workers
become free. So time is a number here, a job's mean duration its unit, and any number of workers
is simulated by one process, through the code and the database of the service.
"""

import heapq
import itertools
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.database import new_id, transaction
from app.jobs import claiming, lifecycle
from app.jobs import service as jobs
from app.jobs.lifecycle import Claim

QUEUE = "generate"


@dataclass
class Simulation:
    """One account has queued a flood at time 0; others submit now and then.

    Attributes:
        workers: how many run jobs.
        load: of the workers' time, the share that the others' jobs need.
    """

    flooder: str
    others: Sequence[str]
    workers: int
    load: float
    seed: int = 1
    _events: list[tuple[float, int, str, Any]] = field(default_factory=list)
    _order: Any = field(default_factory=itertools.count)

    def run(self, count: int) -> dict[str, Any]:
        """Until so many jobs have been claimed; waits in mean durations of a job."""
        draw = random.Random(self.seed)
        now, idle, claimed = 0.0, self.workers, 0
        submitted: dict[str, float] = {}
        waits: dict[str, list[float]] = defaultdict(list)
        flood_claims: list[float] = []
        self._after(draw.expovariate(self.load * self.workers), "submit")
        while claimed < count:
            while idle:
                claim = self._claim()
                if claim is None:
                    break
                idle -= 1
                claimed += 1
                if claim.account_id == self.flooder:
                    flood_claims.append(now)
                # Not of those that an earlier simulation has left.
                elif claim.job_id in submitted:
                    waits[claim.account_id].append(now - submitted.pop(claim.job_id))
                self._after(now + draw.expovariate(1.0), "end", claim)
            now, _, what, claim = heapq.heappop(self._events)
            if what == "end":
                with transaction() as session:
                    lifecycle.finish(session, claim, "succeeded", gpu_seconds=1)
                idle += 1
            else:
                submitted[self._submit(draw.choice(self.others))] = now
                self._after(now + draw.expovariate(self.load * self.workers), "submit")
        self._give_back()
        every = [wait for account in waits.values() for wait in account]
        return {
            "workers": self.workers,
            "jobs_claimed": claimed,
            "durations_simulated": round(now, 2),
            "others": _spread(every),
            "others_slowest_account_mean": max(map(statistics.mean, waits.values()), default=0.0),
            "accounts_seen": len(waits),
            "flood_share_of_workers": len(flood_claims) / (now * self.workers) if now else 0.0,
            "flood_claimed": len(flood_claims),
            "flood_per_duration": len(flood_claims) / now if now else 0.0,
        }

    def _after(self, at: float, what: str, claim: Claim | None = None) -> None:
        heapq.heappush(self._events, (at, next(self._order), what, claim))

    def _claim(self) -> Claim | None:
        with transaction() as session:
            return claiming.claim(session, QUEUE, "bench")

    def _submit(self, account_id: str) -> str:
        job_id = new_id("gen")
        with transaction() as session:
            jobs.submit(
                session, job_id=job_id, kind="generation", queue=QUEUE, account_id=account_id
            )
        return job_id

    def _give_back(self) -> None:
        """End what still runs."""
        for _, _, what, claim in self._events:
            if what == "end":
                with transaction() as session:
                    lifecycle.finish(session, claim, "succeeded", gpu_seconds=1)


def _spread(waits: Sequence[float]) -> dict[str, float]:
    ordered = sorted(waits)
    if not ordered:
        return {"jobs": 0}
    return {
        "jobs": len(ordered),
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "max": ordered[-1],
    }
