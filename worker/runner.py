"""claim → handler → finish: the only place that changes the state of a running job.

A handler does the work and returns what to publish, as a function of a session; it runs in the
very transaction that ends the job. So nothing of a lost attempt is ever visible.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

import structlog
from sqlalchemy.orm import Session

# Every table, so that foreign keys between them resolve whichever handler runs first.
from app import tables  # noqa: F401
from app.database import JsonObject, transaction
from app.errors import JobInputMissing, LeaseLost, LorawrightError, NotFound
from app.jobs import lifecycle
from app.jobs.lifecycle import Claim
from app.jobs.models import JobKind
from worker.handlers import captioning, generation, ingest, lora_tools, training
from worker.handlers.context import JobContext, Stopped
from worker.lease import Lease
from worker.workspace import workspace

log = logging.getLogger(__name__)

Publish = Callable[[Session], None]
Handler = Callable[[JobContext], Publish]

HANDLERS: Mapping[JobKind, Handler] = {
    "ingest": ingest.run,
    "captioning": captioning.run,
    "training": training.run,
    "lora_tool": lora_tools.run,
    "generation": generation.run,
}
DEADLINE_ERROR: JsonObject = {
    "code": "deadline_exceeded",
    "message": "The job did not end before its deadline",
    "retryable": False,
}


def worker_id() -> str:
    """This process, as operators see it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def run_next(queue: str) -> bool:
    """Claim the best job of a queue and run it to an end; False when none was waiting."""
    with transaction() as session:
        claim = lifecycle.claim(session, queue, worker_id())
    if claim is None:
        return False
    with structlog.contextvars.bound_contextvars(job_id=claim.job_id, attempt=claim.attempt):
        log.info("claimed")
        _run(claim)
    return True


def _run(claim: Claim) -> None:
    started = time.monotonic()

    def gpu_seconds() -> float:
        return time.monotonic() - started if lifecycle.counts_as_gpu(claim.queue) else 0.0

    with Lease(claim) as lease, workspace(claim) as folder:
        try:
            publish = HANDLERS[claim.kind](JobContext(claim, lease, folder))
            with transaction() as session:
                lifecycle.hold(session, claim)
                publish(session)
                lifecycle.finish(session, claim, "succeeded", gpu_seconds=gpu_seconds())
            log.info("succeeded")
        except LeaseLost:
            log.warning("the lease was lost; nothing was published")
        except Stopped:
            _record_stop(claim, lease, gpu_seconds())
        except Exception as error:  # the one catch-all: a failure becomes a recorded outcome
            _record_failure(claim, lease, error, gpu_seconds())


def _record_stop(claim: Claim, lease: Lease, gpu_seconds: float) -> None:
    reason = lease.stop_reason
    log.info("stopped: %s", reason)
    try:
        with transaction() as session:
            if reason == "canceled":
                lifecycle.finish(session, claim, "canceled", gpu_seconds=gpu_seconds)
            elif reason == "deadline":
                lifecycle.finish(
                    session, claim, "failed", gpu_seconds=gpu_seconds, error=DEADLINE_ERROR
                )
            elif reason == "draining":
                lifecycle.release(session, claim, gpu_seconds=gpu_seconds, reason="worker_stopping")
    except LeaseLost:
        log.warning("the lease was lost while stopping")


def _record_failure(claim: Claim, lease: Lease, error: Exception, gpu_seconds: float) -> None:
    if lease.should_stop():
        # Whatever broke, broke while it was being stopped.
        log.warning("failed while stopping", exc_info=error)
        _record_stop(claim, lease, gpu_seconds)
        return
    outcome = _describe(error)
    log.error("failed: %s", outcome["code"], exc_info=error)
    try:
        with transaction() as session:
            if outcome["retryable"]:
                lifecycle.retry_later(session, claim, gpu_seconds=gpu_seconds, error=outcome)
            else:
                lifecycle.finish(session, claim, "failed", gpu_seconds=gpu_seconds, error=outcome)
    except LeaseLost:
        log.warning("the lease was lost; the failure is not recorded")


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
