"""The heartbeat: a thread that keeps a claim alive and learns when the job must stop.

It renews the lease on a fixed beat, and at once when Redis whispers that the job has news (a
cancel). The handler asks `should_stop` between steps; it never asks the database itself.
"""

import logging
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Literal

import redis
from redis.client import PubSub
from sqlalchemy.exc import SQLAlchemyError

from app.broker import get_redis, job_channel
from app.database import transaction
from app.errors import LeaseLost
from app.jobs import lifecycle
from app.jobs.lifecycle import Claim
from app.settings import get_settings
from worker.drain import is_draining

log = logging.getLogger(__name__)

StopReason = Literal["canceled", "deadline", "draining", "lost"]
# How soon a drain is noticed; short beside the seconds a stop may take.
TICK_SECONDS = 0.25


class Lease:
    """Holds a claim while its `with` block runs."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self._reason: StopReason | None = None
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
        settings = get_settings()
        renewed = time.monotonic()
        ears = self._listen()
        try:
            while not self._ended.is_set() and self._reason != "lost":
                news = self._wait(ears)
                if self._ended.is_set():
                    return
                if self._reason is None and is_draining():
                    self._reason = "draining"
                if news or time.monotonic() - renewed >= settings.heartbeat_seconds:
                    if self._renew():
                        renewed = time.monotonic()
                    elif time.monotonic() - renewed > settings.lease_seconds:
                        # Postgres has been away for a whole lease: another may have the job.
                        self._reason = "lost"
        finally:
            if ears is not None:
                with suppress(redis.RedisError, OSError):
                    ears.close()

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
            return False
        if self._reason is None and orders.cancel_requested:
            self._reason = "canceled"
        elif self._reason is None and orders.deadline_passed:
            self._reason = "deadline"
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
        """Rest for a tick; whether the job has news."""
        if ears is not None:
            try:
                return ears.get_message(timeout=TICK_SECONDS) is not None
            except (redis.RedisError, OSError):
                # redis-py reconnects and subscribes again on a later call.
                pass
        self._ended.wait(TICK_SECONDS)
        return False
