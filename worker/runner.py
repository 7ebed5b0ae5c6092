"""claim → handler → finish: the only place that changes the state of a running job.

A handler does the work and returns what to publish, as a function of a session; it runs in the
very transaction that ends the job. So nothing of a lost attempt is ever visible. Jobs that were
claimed together are one call of the handler, and come to their ends one by one.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from sqlalchemy.orm import Session

# Every table, so that foreign keys between them resolve whichever handler runs first.
from app import tables  # noqa: F401
from app.database import JsonObject, transaction
from app.errors import JobInputMissing, LeaseLost, LorawrightError, NotFound
from app.jobs import claiming, lifecycle
from app.jobs.lifecycle import Claim
from app.jobs.models import JobKind
from worker.handlers import captioning, comparison, generation, ingest, lora_tools, training
from worker.handlers.at_hand import at_hand
from worker.handlers.context import JobContext, Publish, Stopped
from worker.handlers.understanding import PAUSE_SECONDS, TooNew
from worker.lease import Lease
from worker.patience import patiently
from worker.stages import Attempt, stage
from worker.workspace import workspace

log = logging.getLogger(__name__)

Handler = Callable[[JobContext], Publish]
# What to publish, or why there is nothing, of each job as it comes to its end.
Outcomes = Iterator[tuple[JobContext, Publish | Exception]]
GroupHandler = Callable[[Sequence[JobContext]], Outcomes]

HANDLERS: Mapping[JobKind, Handler] = {
    "ingest": ingest.run,
    "captioning": captioning.run,
    "training": training.run,
    "comparison": comparison.run,
    "lora_tool": lora_tools.run,
}
# Those whose jobs can be claimed together.
GROUP_HANDLERS: Mapping[JobKind, GroupHandler] = {"generation": generation.run}
DEADLINE_ERROR: JsonObject = {
    "code": "deadline_exceeded",
    "message": "The job did not end before its deadline",
    "retryable": False,
}


class Ended(NamedTuple):
    """How an attempt came to its end, as it is told; see `metrics.JOBS`."""

    outcome: str
    error: str = ""


def worker_id() -> str:
    """This process, as operators see it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def run_next(queue: str) -> bool:
    """Claim the best job of a queue, with those that fit its batch, and run it to an end.

    False when none was waiting.
    """
    held = at_hand() if queue == "generate" else claiming.NOTHING
    with transaction() as session:
        first = claiming.claim(session, queue, worker_id(), held)
        if first is None:
            return False
        mates: list[Claim] = []
        if first.kind == "generation" and first.batch_key is not None:
            mates = claiming.claim_mates(session, first, generation.places(session, first))
    claims = [first, *mates]
    ids = [claim.job_id for claim in claims]
    group = _Group(claims)
    with group.first.current():
        log.info("claimed %s", ids if mates else first.job_id)
        group.run()
    return True


class _Group:
    """Jobs that were claimed together, and which of them have come to an end."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self._claims = claims
        # What is done for all of them is told of the first; the others' spans link to it.
        self.first = Attempt(claims[0])
        mates = {claim.job_id: Attempt(claim, [self.first]) for claim in claims[1:]}
        self._attempts = {claims[0].job_id: self.first, **mates}
        self._settled: set[str] = set()
        # Those of them whose end is written down.
        self._recorded: set[str] = set()
        # Jobs are settled by the handler's thread, and by a lease that waits for it in vain.
        self._lock = threading.Lock()
        self._started = time.monotonic()

    def run(self) -> None:
        with ExitStack() as stack:
            contexts = [self._enter(claim, stack) for claim in self._claims]
            try:
                for context, outcome in _outcomes(contexts):
                    self._settle(context, outcome)
            except Exception as error:  # the one catch-all: a failure becomes a recorded outcome
                for context in contexts:
                    self._settle(context, error)

    def _enter(self, claim: Claim, stack: ExitStack) -> JobContext:
        folder = stack.enter_context(workspace(claim))
        lease = Lease(claim, lambda: self._leave_behind(context))
        context = JobContext(claim, lease, folder)
        context.on_leave = lambda: self._settle(context, Stopped())
        context.attempt = self._attempts[claim.job_id]
        stack.enter_context(lease)
        return context

    def _leave_behind(self, context: JobContext) -> None:
        """Settle a job that must stop, though its handler is held up by what takes no orders.

        A model that is being loaded is there for the next job; nothing that the handler still does
        for this one can be published. When the whole worker stops there is no next job.
        """
        log.warning("%s is left behind: %s", context.claim.job_id, context.lease.stop_reason)
        self._settle(context, Stopped())
        if context.lease.stop_reason == "draining" and len(self._recorded) == len(self._claims):
            os._exit(os.EX_TEMPFAIL)

    def _settle(self, context: JobContext, outcome: Publish | Exception) -> None:
        """Record how a job came to its end; the first time counts."""
        claim, lease = context.claim, context.lease
        with self._lock:
            if claim.job_id in self._settled:
                return
            self._settled.add(claim.job_id)
        # What follows is quick, and a beat after it would take the job for lost.
        lease.end()
        attempt = self._attempts[claim.job_id]
        with attempt.current():
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                with stage("publish"):
                    self._publish(claim, outcome)
                log.info("succeeded")
                end = Ended("succeeded")
            except LeaseLost:
                log.warning("the lease was lost; nothing was published")
                end = Ended("lost")
            except Stopped:
                end = _record_stop(claim, lease, self._gpu_seconds(claim))
            except TooNew as reason:
                end = _give_back(claim, reason, self._gpu_seconds(claim))
            except Exception as error:  # of this job, whatever it is; the others go on
                end = _record_failure(claim, lease, error, self._gpu_seconds(claim))
        attempt.ended(*end)
        self._recorded.add(claim.job_id)

    def _publish(self, claim: Claim, publish: Publish) -> None:
        def write(session: Session) -> None:
            lifecycle.hold(session, claim)
            publish(session)
            seconds = self._gpu_seconds(claim)
            lifecycle.finish(session, claim, "succeeded", gpu_seconds=seconds)

        patiently(write)

    def _gpu_seconds(self, claim: Claim) -> float:
        """A job's share of the time so far, by the places it took."""
        if not lifecycle.counts_as_gpu(claim.queue):
            return 0.0
        places = sum(each.batch_size for each in self._claims)
        return (time.monotonic() - self._started) * claim.batch_size / places


def _outcomes(contexts: Sequence[JobContext]) -> Outcomes:
    kind = contexts[0].claim.kind
    if kind in GROUP_HANDLERS:
        yield from GROUP_HANDLERS[kind](contexts)
        return
    if kind not in HANDLERS:
        raise TooNew(f"jobs of the kind {kind} are not known to this worker")
    for context in contexts:
        yield context, HANDLERS[kind](context)


def _record_stop(claim: Claim, lease: Lease, gpu_seconds: float) -> Ended:
    reason = lease.stop_reason
    log.info("stopped: %s", reason)

    def write(session: Session) -> Ended:
        if reason == "canceled":
            lifecycle.finish(session, claim, "canceled", gpu_seconds=gpu_seconds)
            return Ended("canceled")
        if reason == "deadline":
            lifecycle.finish(
                session, claim, "failed", gpu_seconds=gpu_seconds, error=DEADLINE_ERROR
            )
            return Ended("failed", DEADLINE_ERROR["code"])
        if reason == "draining":
            status = lifecycle.release(
                session, claim, gpu_seconds=gpu_seconds, reason="worker_stopping"
            )
            return Ended("released" if status == "queued" else status)
        return Ended("lost")

    try:
        return patiently(write)
    except LeaseLost:
        log.warning("the lease was lost while stopping")
        return Ended("lost")


def _give_back(claim: Claim, reason: TooNew, gpu_seconds: float) -> Ended:
    log.warning("given back to be run by a newer worker: %s", reason)

    def write(session: Session) -> Ended:
        status = lifecycle.release(
            session,
            claim,
            gpu_seconds=gpu_seconds,
            reason="worker_too_old",
            pause_seconds=PAUSE_SECONDS,
        )
        return Ended("released" if status == "queued" else status)

    try:
        return patiently(write)
    except LeaseLost:
        log.warning("the lease was lost while giving back")
        return Ended("lost")


def _record_failure(claim: Claim, lease: Lease, error: Exception, gpu_seconds: float) -> Ended:
    if lease.should_stop():
        # Whatever broke, broke while it was being stopped.
        log.warning("failed while stopping", exc_info=error)
        return _record_stop(claim, lease, gpu_seconds)
    outcome = _describe(error)
    log.error("failed: %s", outcome["code"], exc_info=error)

    def write(session: Session) -> Ended:
        if outcome["retryable"]:
            status = lifecycle.retry_later(session, claim, gpu_seconds=gpu_seconds, error=outcome)
            return Ended("retried" if status == "queued" else status, outcome["code"])
        lifecycle.finish(session, claim, "failed", gpu_seconds=gpu_seconds, error=outcome)
        return Ended("failed", outcome["code"])

    try:
        return patiently(write)
    except LeaseLost:
        log.warning("the lease was lost; the failure is not recorded")
        return Ended("lost")


def _describe(error: Exception) -> JsonObject:
    """What the customer is told. Only our own errors speak; others might quote secrets."""
    if isinstance(error, NotFound):
        return _describe(JobInputMissing("A file that the job needs is gone from storage"))
    if isinstance(error, LorawrightError):
        return {"code": error.code, "message": error.detail, "retryable": error.retryable}
    return {
        "code": "internal",
        "message": "Something went wrong in the worker; the operators' log has the details",
        "retryable": True,
    }
