"""Who waits at a queue: one line for each account and priority, so that a claim never counts jobs.

A claim looks at the lines, of which there are as many as accounts that wait, and then at the head
of one of them; neither grows with the number of jobs. A line is opened in the transaction that
queues a job, and closed by the claim that finds it empty.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    Update,
    bindparam,
    case,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.accounts.models import Account
from app.jobs.models import Job, JobLine
from app.settings import get_settings

PAGE = 100
# A claim nearly always takes from one of the first.
FIRST_PAGE = 8
NO_LIMIT = 1_000_000
# A line that has been empty for so long says nothing about whose turn it is.
FORGOTTEN_AFTER = "1 day"


@dataclass(frozen=True)
class Line:
    """An account's place at a queue.

    Attributes:
        running: jobs of the account that run now, on any queue.
        limit: how many may.
    """

    queue: str
    account_id: str
    priority: int
    running: int
    limit: int


def open_line(session: Session, queue: str, account_id: str, priority: int) -> None:
    """See to it that the line is open until this transaction, which queues a job, has ended.

    The share lock keeps it from being closed meanwhile, and lets others of the account queue.
    """
    place = _place(queue, account_id, priority)
    while True:
        waiting = session.scalar(
            select(JobLine.waiting).where(place).with_for_update(read=True, key_share=True)
        )
        if waiting is None:
            session.execute(
                insert(JobLine)
                .values(queue=queue, account_id=account_id, priority=priority, waiting=True)
                .on_conflict_do_nothing()
            )
            continue
        if not waiting:
            session.execute(
                update(JobLine).where(place).values(waiting=True, opened_at=func.clock_timestamp())
            )
        return


def fairest(session: Session, queue: str) -> Iterator[Line]:
    """The open lines, in the order in which their turn comes.

    By priority; then those whose account runs fewer jobs; then those that were served longest
    ago. Accounts at their limit, or suspended, are left out.
    """
    offset, size = 0, FIRST_PAGE
    while True:
        page = _page(session, queue, offset, size)
        yield from page
        if len(page) < size:
            return
        offset, size = offset + size, PAGE


def served(queue: Any, account_id: Any, priority: Any) -> Update:
    """What sends a line that has had its turn behind the others."""
    return (
        update(JobLine)
        .where(_place(queue, account_id, priority))
        .values(served_at=func.clock_timestamp())
    )


def close_if_empty(session: Session, line: Line) -> None:
    """Close a line in which nobody waits, unless somebody is about to."""
    place = _place(line.queue, line.account_id, line.priority)
    locked = select(JobLine.account_id).where(place).with_for_update(skip_locked=True)
    if session.scalar(locked) is None:
        return
    # A statement of its own: it sees who has queued before the lock was had.
    waiting = select(Job.id).where(
        Job.queue == line.queue,
        Job.account_id == line.account_id,
        Job.priority == line.priority,
        Job.status == "queued",
    )
    session.execute(update(JobLine).where(place, ~waiting.exists()).values(waiting=False))


def forget_old_lines(session: Session) -> None:
    """Remove the lines that have long been empty."""
    old = (
        select(JobLine.queue, JobLine.account_id, JobLine.priority)
        .where(
            ~JobLine.waiting,
            func.greatest(JobLine.served_at, JobLine.opened_at)
            < func.now() - text(f"interval '{FORGOTTEN_AFTER}'"),
        )
        .with_for_update(skip_locked=True)
        .subquery()
    )
    session.execute(
        delete(JobLine).where(
            JobLine.queue == old.c.queue,
            JobLine.account_id == old.c.account_id,
            JobLine.priority == old.c.priority,
        )
    )


def _page(session: Session, queue: str, offset: int, size: int) -> list[Line]:
    told = {
        "queue_is": queue,
        "most_running": get_settings().max_running_per_account,
        "skipped": offset,
        "size": size,
    }
    return [
        Line(queue, row.account_id, row.priority, row.running, row.most)
        for row in session.execute(_FAIREST, told)
    ]


def _fairest() -> Select[str, int, int, int]:
    busy = (
        select(Job.account_id, func.count().label("running"))
        .where(Job.status == "running")
        .group_by(Job.account_id)
        .subquery()
    )
    running = func.coalesce(busy.c.running, 0)
    # An account's own limit; null is without limit.
    own = Account.limits["running_jobs"]
    most = case(
        (own.is_(None), bindparam("most_running", type_=Integer)),
        (func.jsonb_typeof(own) == "null", NO_LIMIT),
        else_=own.as_integer(),
    )
    return (
        select(JobLine.account_id, JobLine.priority, running.label("running"), most.label("most"))
        .join(Account, Account.id == JobLine.account_id)
        .outerjoin(busy, busy.c.account_id == JobLine.account_id)
        .where(
            JobLine.queue == bindparam("queue_is"),
            JobLine.waiting,
            Account.suspended_at.is_(None),
            running < most,
        )
        .order_by(
            JobLine.priority.desc(),
            running,
            JobLine.served_at.asc().nulls_first(),
            JobLine.opened_at,
            JobLine.account_id,
        )
        .offset(bindparam("skipped", type_=Integer))
        .limit(bindparam("size", type_=Integer))
    )


def _place(queue: Any, account_id: Any, priority: Any) -> ColumnElement[bool]:
    place: ColumnElement[bool] = (
        (JobLine.queue == queue)
        & (JobLine.account_id == account_id)
        & (JobLine.priority == priority)
    )
    return place


# Built once: building it takes longer than Postgres needs to run it.
_FAIREST = _fairest()
