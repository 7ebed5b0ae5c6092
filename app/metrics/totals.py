"""Counts jobs that have ended, each once: a little at every sweep, not all at every question."""

from datetime import timedelta

from sqlalchemy import Float, cast, extract, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.metrics.models import Sweeper

# A job's `ended_at` is the begin of the transaction that ends it. One that commits later than this
# is never counted; those that end a job take milliseconds.
LAG = timedelta(seconds=20)
_ONLY = 1
_COUNT = text("""
    INSERT INTO job_totals
        (kind, status, error_code, jobs, gpu_seconds, run_seconds, wait_seconds)
    SELECT kind, status, coalesce(error_code, ''), count(*), sum(gpu_seconds),
        coalesce(sum(extract(epoch FROM ended_at - started_at)), 0),
        coalesce(sum(extract(epoch FROM started_at - created_at)), 0)
    FROM jobs WHERE ended_at > :since AND ended_at <= :until
    GROUP BY 1, 2, 3
    ON CONFLICT (kind, status, error_code) DO UPDATE SET
        jobs = job_totals.jobs + excluded.jobs,
        gpu_seconds = job_totals.gpu_seconds + excluded.gpu_seconds,
        run_seconds = job_totals.run_seconds + excluded.run_seconds,
        wait_seconds = job_totals.wait_seconds + excluded.wait_seconds
""")


def count_ended(session: Session, lag: timedelta = LAG) -> None:
    """Add the jobs that have ended since the last time; two at once count each job once."""
    _begin(session)
    since, until = session.execute(
        select(Sweeper.counted_until, func.now() - lag).where(Sweeper.id == _ONLY).with_for_update()
    ).one()
    if until <= since:
        return
    session.execute(_COUNT, {"since": since, "until": until})
    session.execute(update(Sweeper).where(Sweeper.id == _ONLY).values(counted_until=until))


def note_sweep(session: Session) -> None:
    """A sweep has come to its end."""
    _begin(session)
    session.execute(update(Sweeper).where(Sweeper.id == _ONLY).values(swept_at=func.now()))


def seconds_since_sweep(session: Session) -> float | None:
    """How long ago a sweep came to its end; None where none ever did."""
    swept: float | None = session.scalar(
        select(cast(extract("epoch", func.now() - Sweeper.swept_at), Float))
    )
    return None if swept is None else max(0.0, swept)


def _begin(session: Session) -> None:
    """The first sweep of a database counts from now on."""
    row = insert(Sweeper).values(id=_ONLY, counted_until=func.now())
    session.execute(row.on_conflict_do_nothing())
