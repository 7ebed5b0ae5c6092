"""A job's story: appended in the transaction that makes it true, replayed by streams."""

from sqlalchemy import ColumnElement, bindparam, exists, false, insert, or_, select, update
from sqlalchemy.orm import Session

from app.broker import announce_after_commit
from app.database import JsonObject
from app.jobs.models import EventType, Job, JobEvent
from app.webhooks import outbox
from app.webhooks.models import WebhookEndpoint

_IS_WATCHED: ColumnElement[bool] = or_(
    Job.webhook_url.is_not(None),
    exists().where(
        WebhookEndpoint.account_id == Job.account_id,
        WebhookEndpoint.disabled_at.is_(None),
        WebhookEndpoint.url.is_not(None),
    ),
)

# Built once, and no object of the session: events are written more often than anything else.
_ADD = insert(JobEvent.__table__)  # type: ignore[arg-type]  # a Table, though typed as FromClause
_BEGIN = (
    select(_IS_WATCHED)
    .where(Job.id == bindparam("job_id"))
    .add_cte(
        _ADD.values({name: bindparam(name) for name in ("job_id", "seq", "type", "payload")}).cte(
            "told"
        )
    )
)


def begin(session: Session, job_id: str, type_: EventType, payload: JsonObject) -> None:
    """The first event of a job that this transaction has inserted with `event_seq` 1."""
    told = {"job_id": job_id, "seq": 1, "type": type_, "payload": payload}
    is_watched = session.scalar(_BEGIN, told)
    announce(session, job_id, type_, bool(is_watched))


def append(session: Session, job_id: str, type_: EventType, payload: JsonObject) -> int:
    """Add one event and announce it after the commit; its number in the job's story.

    The number is taken by an UPDATE of the job's row, whose lock keeps the story in order and
    without gaps, whoever writes. Where the row is changed anyway, `NEXT` goes into that UPDATE and
    `add` follows it, as each UPDATE leaves another version of the row behind.
    """
    row = session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(NEXT)
        .returning(*numbered(type_))
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        raise LookupError(f"no job {job_id}")
    add(session, job_id, type_, payload, row.seq, row.is_watched)
    return int(row.seq)


# What an UPDATE of a job's row sets so that an event may be added.
NEXT = {"event_seq": Job.event_seq + 1}


def numbered(type_: EventType) -> tuple[ColumnElement[int], ColumnElement[bool]]:
    """What that UPDATE returns for it: `seq` and `is_watched`.

    So whether anybody is told by webhook is seen on the way, without a statement of its own.
    """
    watched = _IS_WATCHED if type_ == "status" else false()
    return Job.event_seq.label("seq"), watched.label("is_watched")


def add(
    session: Session,
    job_id: str,
    type_: EventType,
    payload: JsonObject,
    seq: int,
    is_watched: bool,
) -> None:
    """Add the event whose number this transaction's UPDATE of the job has returned."""
    told = {"job_id": job_id, "seq": seq, "type": type_, "payload": payload}
    session.execute(_ADD, told)
    announce(session, job_id, type_, is_watched)


def announce(session: Session, job_id: str, type_: EventType, is_watched: bool) -> None:
    """Tell of an event that this transaction has added, once it is committed."""
    # All but the status is a worker's own word, for which it need not look at Postgres itself.
    announce_after_commit(session, job_id, is_report=type_ != "status")
    if is_watched:
        outbox.put(session, job_id)


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
