"""An attempt as it is watched: its log lines' ids, its spans, its figures.

The parts of the work are named where they happen, with `stage`; what does not know of jobs
(`worker.ml`) is given it as a function.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import structlog
from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, StatusCode

from app import tracing
from app.jobs.lifecycle import Claim
from worker import metrics

FAILED = frozenset({"failed", "retried", "lost"})
_kind: ContextVar[str | None] = ContextVar("kind", default=None)


class Attempt:
    """One attempt of a job, from its claim on."""

    def __init__(self, claim: Claim, links: Sequence["Attempt"] = ()) -> None:
        """Its span goes on from the request that made the job.

        Args:
            links: others that were claimed with it.
        """
        self._claim = claim
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._has_stepped = False
        attributes: dict[str, str | int | float] = {
            "lorawright.job.id": claim.job_id,
            "lorawright.job.attempt": claim.attempt,
            "lorawright.queue": claim.queue,
            "lorawright.account.id": claim.account_id,
            "lorawright.worker.id": claim.worker_id,
        }
        if claim.waited_seconds is not None:
            attributes["lorawright.queue.wait_seconds"] = claim.waited_seconds
        if claim.request_id is not None:
            attributes["lorawright.request.id"] = claim.request_id
        self.span: trace.Span = tracing.tracer().start_span(
            f"job {claim.kind}",
            context=tracing.context_of(claim.traceparent),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[Link(other.span.get_span_context()) for other in links],
        )
        for other in links:
            other.span.add_link(self.span.get_span_context())

    @contextmanager
    def current(self) -> Iterator[None]:
        """Log lines, spans and stages within the block are this attempt's."""
        claim = self._claim
        token = _kind.set(claim.kind)
        with (
            structlog.contextvars.bound_contextvars(**log_fields(claim)),
            trace.use_span(self.span, record_exception=False, set_status_on_exception=False),
        ):
            try:
                yield
            finally:
                _kind.reset(token)

    def stepped(self) -> None:
        """What the job is for has begun; only the first time counts."""
        with self._lock:
            if self._has_stepped:
                return
            self._has_stepped = True
        seconds = time.monotonic() - self._began
        metrics.FIRST_STEP_SECONDS.labels(self._claim.kind).observe(seconds)
        self.span.add_event("first step")

    def ended(self, outcome: str, error: str = "") -> None:
        """It has come to its end.

        Args:
            outcome: as in `metrics.JOBS`.
            error: its code, if there was one.
        """
        kind = self._claim.kind
        metrics.JOBS.labels(kind, outcome, error).inc()
        metrics.JOB_SECONDS.labels(kind).observe(time.monotonic() - self._began)
        self.span.set_attribute("lorawright.outcome", outcome)
        if error:
            self.span.set_attribute("error.type", error)
        if outcome in FAILED:
            self.span.set_status(StatusCode.ERROR, error or outcome)
        self.span.end()


def log_fields(claim: Claim) -> dict[str, str | int | None]:
    """What every log line of an attempt carries."""
    return {
        "request_id": claim.request_id,
        "job_id": claim.job_id,
        "attempt": claim.attempt,
        "account_id": claim.account_id,
    }


@contextmanager
def stage(name: str, **numbers: int) -> Iterator[None]:
    """A part of the work of the current attempt.

    Args:
        numbers: of `denoise`, the `pictures` of the batch and the `steps` of each; of `decode`,
            the `pictures`.
    """
    began = time.monotonic()
    attributes = {f"lorawright.{key}": value for key, value in numbers.items()}
    with tracing.tracer().start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ):
        yield
    # One that was left early says nothing of how long such a part takes.
    observe(name, time.monotonic() - began)
    if name == "denoise":
        metrics.BATCH_PICTURES.observe(numbers["pictures"])
        metrics.DENOISE_STEPS.inc(numbers["pictures"] * numbers["steps"])
    elif name == "decode":
        metrics.PICTURES.inc(numbers["pictures"])


def observe(name: str, seconds: float) -> None:
    """A part of the work has taken so long."""
    metrics.STAGE_SECONDS.labels(_kind.get() or "other", name).observe(seconds)


def bank_loaded(hit: bool) -> None:
    """The adapter bank was asked for a LoRA; whether it had it."""
    metrics.BANK_LOADS.labels("hit" if hit else "parsed").inc()
