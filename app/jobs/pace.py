"""How soon a waiting job starts: what its queue's workers hold, and how long jobs take them.

Asked at every look at a waiting job, so it is read from the database once in a while only.
"""

import threading
import time
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.jobs import backlog
from app.settings import get_settings

# How long what was read counts as new.
KEPT_SECONDS = 5.0


@dataclass(frozen=True)
class Pace:
    """Of one queue.

    Attributes:
        workers: processes that are alive and may claim from it.
        first_seconds: until one of them is free.
        job_seconds: what a job takes one worker; None where none has ended lately.
    """

    workers: int
    first_seconds: float
    job_seconds: float | None


class _Kept:
    """What was read last, for all threads of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._paces: dict[str, Pace] = {}

    def of(self, session: Session, queue: str) -> Pace | None:
        with self._lock:
            if time.monotonic() - self._read_at > KEPT_SECONDS:
                self._paces = _read(session)
                self._read_at = time.monotonic()
            return self._paces.get(queue)

    def forget(self) -> None:
        """Read anew at the next question."""
        self._read_at = float("-inf")


kept = _Kept()


def eta_seconds(session: Session, queue: str, position: int) -> float | None:
    """Seconds until a job with so many before it starts; None where nobody can tell.

    An estimate: jobs differ, and workers of several queues are counted for each of them.
    """
    pace = kept.of(session, queue)
    if pace is None or (pace.job_seconds is None and position > 0):
        return None
    return round(pace.first_seconds + position * (pace.job_seconds or 0.0) / pace.workers, 1)


def _read(session: Session) -> dict[str, Pace]:
    """The pace of each queue that has a worker."""
    rows = session.execute(_WORKERS, {"silent_after": get_settings().lease_seconds}).all()
    measured = backlog.measured_seconds(session) if rows else {}
    paces = {}
    for row in rows:
        job_seconds = measured.get(row.queue)
        # Where no running job foretells its end, one is taken to be half done.
        soonest = (job_seconds or 0.0) / 2 if row.soonest is None else row.soonest
        paces[row.queue] = Pace(
            workers=row.workers,
            first_seconds=0.0 if row.busy < row.workers else soonest,
            job_seconds=job_seconds,
        )
    return paces


# As text: these rows are nobody's, or everybody's, and no more than their number is told.
_WORKERS = text("""
    WITH held AS (
        SELECT worker_id, max(progress_eta_s) AS eta FROM jobs
        WHERE status = 'running' GROUP BY worker_id
    )
    SELECT queue, count(*) AS workers, count(held.worker_id) AS busy, min(held.eta) AS soonest
    FROM workers CROSS JOIN LATERAL jsonb_array_elements_text(workers.queues) AS queue
    LEFT JOIN held ON held.worker_id = workers.id
    WHERE workers."order" IS NULL
      AND workers.heartbeat_at > now() - make_interval(secs => :silent_after)
    GROUP BY queue
""")
