"""Which waiting job a worker gets: the fairest line, and in it the oldest job.

A worker may prefer jobs for which it has the base model or the LoRAs at hand, but only within one
account's line and only a few places ahead; and it may take more jobs that fit one batch.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    bindparam,
    cast,
    exists,
    extract,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased

from app.jobs import events, lines, locks
from app.jobs.lifecycle import Claim, from_now
from app.jobs.lines import Line
from app.jobs.locks import LockInTurn
from app.jobs.models import Job, JobEvent
from app.settings import get_settings

# How many of the oldest jobs that would fit a batch are looked at.
MATES_SEEN = 64


@dataclass(frozen=True)
class Held:
    """What a worker has at hand.

    Attributes:
        base_models: catalog ids of those loaded.
        recipe: of the LoRAs that are merged now; see `Job.recipe`.
    """

    base_models: frozenset[str] = frozenset()
    recipe: str | None = None


NOTHING = Held()


def claim(session: Session, queue: str, worker_id: str, held: Held = NOTHING) -> Claim | None:
    """Take the best waiting job of a queue, or None.

    Best: highest priority; then of the account with fewest running jobs, under its limit; then of
    the account that was served longest ago; then the oldest, unless another of the first
    `affinity_look_ahead` of its line needs nothing that is not at hand. Two workers never get the
    same job: the row is locked while it is chosen, and a locked row is passed over.
    """
    being_served: list[Line] = []
    empty: list[Line] = []
    claimed = None
    turn = LockInTurn(session)
    for line in lines.fairest(session, queue):
        # One claim at a time for each account, or two could pass its limit together.
        if not turn.take_if_free(line.account_id):
            being_served.append(line)
            continue
        claimed = _take_from(session, line, worker_id, held)
        if claimed is not None:
            break
        empty.append(line)
    while claimed is None and being_served:
        line = being_served.pop(0)
        turn.take(line.account_id)
        claimed = _take_from(session, line, worker_id, held)
    # Last, when nothing is waited for any more: who waits for these lines waits for this claim.
    for line in empty:
        lines.close_if_empty(session, line)
    return claimed


def claim_mates(session: Session, first: Claim, places: int) -> list[Claim]:
    """Take waiting jobs that may run in one batch with a claimed one, in the order of fairness.

    A job that failed or lost its worker before runs alone, so that it can harm no other.

    Args:
        places: how many the whole batch has, those of the claimed job included.
    """
    left = places - first.batch_size
    if first.batch_key is None or left <= 0:
        return []
    fitting = session.execute(
        select(Job.id, Job.account_id, Job.priority, Job.batch_size)
        .where(
            Job.queue == first.queue,
            Job.batch_key == first.batch_key,
            Job.status == "queued",
            Job.batch_size <= left,
            Job.failures == 0,
            _due(),
        )
        .order_by(Job.created_at, Job.id)
        .limit(MATES_SEEN)
    ).all()
    if not fitting:
        return []
    order = {
        (line.account_id, line.priority): (number, line)
        for number, line in enumerate(lines.fairest(session, first.queue))
    }
    taken: Counter[str] = Counter()
    mates: list[Claim] = []
    candidates = [job for job in fitting if (job.account_id, job.priority) in order]
    while candidates and left > 0:

        def turn(job: Any) -> tuple[int, int, int]:
            number, line = order[job.account_id, job.priority]
            return (-line.priority, line.running + taken[job.account_id], number)

        best = min(candidates, key=turn)
        candidates.remove(best)
        line = order[best.account_id, best.priority][1]
        # Never waits: the first job's lock is held.
        if best.batch_size > left or not locks.add_if_free(session, best.account_id):
            continue
        mate = _take(session, _TAKE_ONE, line, first.worker_id, best.id)
        if mate is not None:
            mates.append(mate)
            taken[best.account_id] += 1
            left -= mate.batch_size
    return mates


def waiting_jobs(session: Session, queue: str, limit: int) -> list[str]:
    """About the jobs that will be claimed next, the best first; nothing is taken or locked."""
    found: list[str] = []
    for line in lines.fairest(session, queue):
        found += session.scalars(
            select(Job.id)
            .where(_in_line(Job, line))
            .order_by(Job.created_at, Job.id)
            .limit(limit - len(found))
        )
        if len(found) >= limit:
            break
    return found


def _take_from(session: Session, line: Line, worker_id: str, held: Held) -> Claim | None:
    """Take the best job of a line, if one is due."""
    if held.base_models and (found := _take_at_hand(session, line, worker_id, held)) is not None:
        return found
    return _take(session, _TAKE_HEAD, line, worker_id)


def _take_at_hand(session: Session, line: Line, worker_id: str, held: Held) -> Claim | None:
    """Take a job near the head of a line that needs nothing that is not at hand.

    Each time, the head's patience is used up by one; at its end it is the head's turn.
    """
    look_ahead = get_settings().affinity_look_ahead
    near = session.execute(
        select(Job.id, Job.base_model, Job.recipe, Job.passed_over)
        .where(_in_line(Job, line))
        .order_by(Job.created_at, Job.id)
        .limit(look_ahead)
    ).all()
    if not near or near[0].passed_over >= look_ahead:
        return None
    loaded = [job for job in near if job.base_model in held.base_models]
    same = [job for job in loaded if job.recipe == held.recipe]
    for best in [*same[:1], *loaded[:1]]:
        if best.id == near[0].id:
            return None
        claimed = _take(session, _TAKE_ONE, line, worker_id, best.id)
        if claimed is not None:
            session.execute(
                update(Job)
                .where(Job.id == near[0].id, Job.status == "queued")
                .values(passed_over=Job.passed_over + 1)
                .execution_options(synchronize_session=False)
            )
            return claimed
    return None


def _take(
    session: Session, statement: Any, line: Line, worker_id: str, job_id: str | None = None
) -> Claim | None:
    """Make a waiting job this worker's, under the account's limit, whose lock is held."""
    row = session.execute(
        statement,
        {
            "queue_is": line.queue,
            "account_is": line.account_id,
            "priority_is": line.priority,
            "id_is": job_id,
            "most_running": line.limit,
            "worker_is": worker_id,
            "lease_seconds": get_settings().lease_seconds,
        },
    ).one_or_none()
    if row is None:
        return None
    events.announce(session, row.id, "status", row.is_watched)
    return Claim(
        row.id,
        row.kind,
        line.queue,
        line.account_id,
        row.attempt,
        worker_id,
        row.batch_key if row.failures == 0 else None,
        row.batch_size,
        row.request_id,
        row.traceparent,
        row.waited_seconds if row.attempt == 1 else None,
    )


def _taking(which: Any) -> Any:
    """The statement that claims the row that `which` selects and locks.

    It also sends the line to its place behind the others and writes the job's event: one statement,
    since each one costs as much on the way as in Postgres. Built once: building it takes longer
    than Postgres needs to run it.
    """
    runs = aliased(Job)
    running = (
        select(func.count())
        .select_from(runs)
        .where(runs.account_id == bindparam("account_is"), runs.status == "running")
        .scalar_subquery()
    )
    taken = (
        update(Job)
        .where(
            Job.id == which.limit(1).with_for_update(skip_locked=True).scalar_subquery(),
            Job.status == "queued",
            running < bindparam("most_running", type_=Integer),
        )
        .values(
            status="running",
            attempt=Job.attempt + 1,
            worker_id=bindparam("worker_is"),
            lease_expires_at=from_now(bindparam("lease_seconds")),
            started_at=func.coalesce(Job.started_at, func.now()),
            not_before=None,
            **events.NEXT,
        )
        .returning(
            *(Job.id, Job.kind, Job.attempt, Job.batch_key, Job.batch_size, Job.failures),
            *(Job.request_id, Job.traceparent),
            cast(extract("epoch", func.now() - Job.created_at), Float).label("waited_seconds"),
            *events.numbered("status"),
        )
        .cte("taken")
    )
    told = insert(JobEvent).from_select(
        ["job_id", "seq", "type", "payload"],
        select(
            taken.c.id,
            taken.c.seq,
            literal("status"),
            func.jsonb_build_object("status", "running", "attempt", taken.c.attempt),
        ),
    )
    line = lines.served(bindparam("queue_is"), bindparam("account_is"), bindparam("priority_is"))
    return select(taken).add_cte(
        told.cte("told"), line.where(exists(select(taken.c.id))).cte("turned")
    )


def _in_line(job: Any, line: Line) -> ColumnElement[bool]:
    waits: ColumnElement[bool] = (
        (job.queue == line.queue)
        & (job.account_id == line.account_id)
        & (job.priority == line.priority)
        & (job.status == "queued")
        & _due(job)
    )
    return waits


def _due(job: Any = Job) -> ColumnElement[bool]:
    due: ColumnElement[bool] = job.not_before.is_(None) | (job.not_before <= func.now())
    return due


_waiting = aliased(Job)
_TAKE_HEAD = _taking(
    select(_waiting.id)
    .where(
        _waiting.queue == bindparam("queue_is"),
        _waiting.account_id == bindparam("account_is"),
        _waiting.priority == bindparam("priority_is"),
        _waiting.status == "queued",
        _due(_waiting),
    )
    .order_by(_waiting.created_at, _waiting.id)
)
_TAKE_ONE = _taking(
    select(_waiting.id).where(_waiting.id == bindparam("id_is"), _waiting.status == "queued")
)
