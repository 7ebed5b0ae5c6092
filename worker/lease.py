"""The heartbeat: a thread that keeps a claim alive and learns when the job must stop.

It renews the lease on a fixed beat, when the job's deadline passes, and at once when Redis whispers
that the job has news (a cancel). The handler asks `should_stop` between steps; it never asks the
database itself.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal

import redis
import structlog
from redis.client import PubSub
from sqlalchemy.exc import SQLAlchemyError

from app.broker import REPORT, get_redis, job_channel
from app.database import transaction
from app.errors import LeaseLost
from app.jobs import lifecycle
from app.jobs.lifecycle import Claim
from app.settings import get_settings
from worker import metrics
from worker.drain import hands_back
from worker.stages import log_fields

log = logging.getLogger(__name__)

StopReason = Literal["canceled", "deadline", "draining", "lost"]
# How soon a drain is noticed; short beside the seconds a stop may take.
TICK_SECONDS = 0.25
# A handler that has not left so long after a cancel is left behind: its job ends without it. A
# training may save its state in that time, others have nothing to save.
CANCEL_SECONDS = 1.0
CANCEL_TRAINING_SECONDS = 8.0
# What a stop may take beyond the setting, for what comes after the handler.
STOP_MARGIN_SECONDS = 2.0


class Lease:
    """Holds a claim while its `with` block runs."""

    def __init__(self, claim: Claim, on_overdue: Callable[[], None] | None = None) -> None:
        """Nothing is renewed before the block is entered.

        Args:
            on_overdue: called once, in the heartbeat's thread, when the job should have stopped
                long ago; something that cannot be interrupted holds its handler up.
        """
        self.claim = claim
        self._on_overdue = on_overdue
        self._reason: StopReason | None = None
        # When the deadline will have passed, and one more heartbeat is due.
        self._ask_at = float("inf")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the job must stop now, or None. Once set it stays."""
        return self._reason

    def should_stop(self) -> bool:
        """Whether the handler must end at its next safe point."""
        return self._reason is not None

    def lose(self) -> None:
        """The database has said that the job is another worker's."""
        self._reason = "lost"

    def end(self) -> None:
        """Renew no more: the job has come to its end."""
        self._ended.set()

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join(timeout=10)

    def _beat(self) -> None:
        with structlog.contextvars.bound_contextvars(**log_fields(self.claim)):
            self._renew_until_ended()

    def _renew_until_ended(self) -> None:
        settings = get_settings()
        renewed = time.monotonic()
        heard_at: float | None = None
        ears = self._listen()
        # Asked at once: what was whispered between the claim and now is lost.
        asked = False
        try:
            while not self._ended.is_set() and self._reason != "lost":
                due = self._wait(ears) or not asked or time.monotonic() >= self._ask_at
                asked = True
                if self._ended.is_set():
                    return
                if self._reason is None and hands_back():
                    self._reason = "draining"
                if due or time.monotonic() - renewed >= settings.heartbeat_seconds:
                    ears = ears or self._listen()
                    if self._renew():
                        _count_renewal(time.monotonic() - renewed, lost=self.stop_reason == "lost")
                        renewed = time.monotonic()
                    elif time.monotonic() - renewed > settings.lease_seconds:
                        # Postgres has been away for a whole lease: another may have the job.
                        self._reason = "lost"
                if self._reason is not None and heard_at is None:
                    heard_at = time.monotonic()
                if heard_at is not None and time.monotonic() - heard_at > self._may_take_seconds():
                    heard_at = float("inf")
                    if self._on_overdue is not None:
                        self._on_overdue()
        finally:
            if ears is not None:
                with suppress(redis.RedisError, OSError):
                    ears.close()

    def _may_take_seconds(self) -> float:
        """How long the handler may take to leave, from when the reason was heard."""
        if self._reason == "draining":
            return get_settings().graceful_stop_seconds + STOP_MARGIN_SECONDS
        return CANCEL_TRAINING_SECONDS if self.claim.kind == "training" else CANCEL_SECONDS

    def _renew(self) -> bool:
        try:
            with transaction() as session:
                orders = lifecycle.renew(session, self.claim)
        except LeaseLost:
            log.warning("lost %s", self.claim.job_id)
            self._reason = "lost"
            return True
        except SQLAlchemyError as error:
            log.warning("lease of %s not renewed: %s", self.claim.job_id, error)
            metrics.RENEWALS.labels("failed").inc()
            return False
        left = float("inf") if orders.seconds_left is None else orders.seconds_left
        if self._reason is None and orders.cancel_requested:
            self._reason = "canceled"
        elif self._reason is None and left <= 0:
            self._reason = "deadline"
        # Nothing is left to learn of a deadline for a job that is told to stop.
        self._ask_at = time.monotonic() + left if self._reason is None else float("inf")
        return True

    def _listen(self) -> PubSub | None:
        try:
            ears = get_redis().pubsub(ignore_subscribe_messages=True)
            ears.subscribe(job_channel(self.claim.job_id))
        except (redis.RedisError, OSError) as error:
            log.warning("no whispers for %s, heartbeats only: %s", self.claim.job_id, error)
            return None
        return ears

    def _wait(self, ears: PubSub | None) -> bool:
        """Rest for a tick; whether the job has news that are not this worker's own reports."""
        if ears is not None:
            try:
                message = ears.get_message(timeout=TICK_SECONDS)
                return message is not None and message["data"] != REPORT
            except (redis.RedisError, OSError):
                # redis-py reconnects and subscribes again on a later call.
                pass
        self._ended.wait(TICK_SECONDS)
        return False


def _count_renewal(since_seconds: float, *, lost: bool) -> None:
    if lost:
        result = "lost"
    else:
        result = "late" if since_seconds > get_settings().lease_seconds / 2 else "in_time"
    metrics.RENEWALS.labels(result).inc()
