"""Workers that only sleep: the service's own task, with a handler that reports progress and waits.

Each is a thread of one of a few processes; a real worker is a process of its own, which costs the
database the same. A thread takes its doorbells from Redis as Celery would, and runs the very task.
"""

import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any

import redis

from app import broker
from app.broker import get_redis
from app.database import get_engine
from app.jobs.locks import LockInTurn
from worker import runner, tasks
from worker.handlers.context import JobContext, Publish

PROCESSES = 4
QUEUE = "generate"
# A child that has not come back so long after its time is stuck.
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Found:
    """What the workers of one run did.

    Attributes:
        seconds: each job from the doorbell to the next, in the order they ended.
        tries, refused: how often a claim asked for an account's lock, and did not get it.
    """

    jobs: int
    elapsed: float
    seconds: list[float]
    tries: int
    refused: int


def work(workers: int, seconds: float, job_seconds: float) -> Found:
    """Let so many workers run jobs that take so long, for so many seconds."""
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()
    get_engine().dispose()
    processes = min(PROCESSES, workers)
    shares = [len(range(number, workers, processes)) for number in range(processes)]
    children = [
        context.Process(target=_live, args=(share, seconds, job_seconds, results))
        for share in shares
    ]
    began = time.perf_counter()
    for child in children:
        child.start()
    told = [results.get() for _ in children]
    for child in children:
        child.join(PATIENCE_SECONDS)
    elapsed = time.perf_counter() - began
    taken = [each for one in told for each in one[0]]
    return Found(len(taken), elapsed, taken, sum(t[1] for t in told), sum(t[2] for t in told))


def _live(workers: int, seconds: float, job_seconds: float, results: Any) -> None:
    """One process of workers."""
    # Connections of the parent are the parent's.
    get_engine().dispose(close=False)
    get_redis.cache_clear()
    broker.celery_app._after_fork()
    logging.disable(logging.WARNING)
    handler = _sleeping(job_seconds)
    runner.GROUP_HANDLERS = {"generation": handler}
    runner.generation.places = lambda *_: 1
    counted = _count_tries()
    taken: list[float] = []
    ends_at = time.perf_counter() + seconds
    # Celery binds a task when it is first used, and not for several threads at once.
    broker.celery_app.finalize()
    threads = [Thread(target=_one, args=(ends_at, taken)) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    get_engine().dispose()
    results.put((taken, *counted))


def _one(ends_at: float, taken: list[float]) -> None:
    bell: redis.Redis = get_redis()
    while time.perf_counter() < ends_at:
        began = time.perf_counter()
        tasks.work(QUEUE)
        # The task has rung for the next worker, who is this one.
        bell.rpop(QUEUE)
        taken.append(time.perf_counter() - began)


def _sleeping(job_seconds: float) -> Any:
    def run(contexts: Sequence[JobContext]) -> Iterator[tuple[JobContext, Publish | Exception]]:
        for context in contexts:
            ends_at = time.perf_counter() + job_seconds
            while (left := ends_at - time.perf_counter()) > 0:
                # As a sampler that takes an eighth of a second for a step.
                time.sleep(min(left, 0.125))
                context.progress(1 - max(0.0, left) / job_seconds, stage="denoise")
            yield context, lambda _: None

    return run


def _count_tries() -> list[int]:
    """Count what becomes of the claims' tries for an account's lock: all, and those in vain."""
    counts = [0, 0]
    original = LockInTurn.take_if_free

    def counted(turn: LockInTurn, account_id: str) -> bool:
        got = original(turn, account_id)
        counts[0] += 1
        counts[1] += not got
        return got

    LockInTurn.take_if_free = counted
    return counts
