"""A job's story: appended in the transaction that makes it true, replayed by streams."""

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.broker import announce_after_commit
from app.database import JsonObject
from app.jobs.models import EventType, Job, JobEvent


def begin(session: Session, job_id: str, type_: EventType, payload: JsonObject) -> None:
    """The first event of a job that this transaction has inserted with `event_seq` 1."""
    session.add(JobEvent(job_id=job_id, seq=1, type=type_, payload=payload))
    announce_after_commit(session, job_id)


def append(session: Session, job_id: str, type_: EventType, payload: JsonObject) -> int:
    """Add one event and announce it after the commit; its number in the job's story.

    The number is taken by an UPDATE of the job's row, whose lock keeps the story in order and
    without gaps, whoever writes.
    """
    seq = session.scalar(
        update(Job)
        .where(Job.id == job_id)
        .values(event_seq=Job.event_seq + 1)
        .returning(Job.event_seq)
        .execution_options(synchronize_session=False)
    )
    if seq is None:
        raise LookupError(f"no job {job_id}")
    session.add(JobEvent(job_id=job_id, seq=seq, type=type_, payload=payload))
    session.flush()
    announce_after_commit(session, job_id)
    return seq


def read_after(session: Session, job_id: str, seq: int, limit: int = 500) -> list[JobEvent]:
    """The events that follow number `seq`, oldest first."""
    return list(
        session.scalars(
            select(JobEvent)
            .where(JobEvent.job_id == job_id, JobEvent.seq > seq)
            .order_by(JobEvent.seq)
            .limit(limit)
        )
    )
