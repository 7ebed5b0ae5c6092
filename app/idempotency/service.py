"""One request, one effect: the answer is kept in the transaction that made what it tells of."""

import hashlib
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.database import JsonObject
from app.errors import IdempotencyKeyInFlight
from app.idempotency.models import IdempotencyRecord
from app.settings import get_settings

PRUNED_AT_ONCE = 1000
# The status of a record whose request still waits for its job; the body is the job's id.
PENDING = 0


def begin(session: Session, account_id: str, key: str) -> IdempotencyRecord | None:
    """The kept answer of an earlier request with this key; None if this one is the first.

    Until the transaction ends no other request of the account may begin with the key.

    Raises:
        IdempotencyKeyInFlight: another one is being answered.
    """
    digest = hashlib.sha256(f"idempotency:{account_id}:{key}".encode()).digest()
    lock = int.from_bytes(digest[:8], signed=True)
    if not session.scalar(select(func.pg_try_advisory_xact_lock(lock))):
        raise IdempotencyKeyInFlight(
            f"A request with the Idempotency-Key {key!r} is being answered now"
        )
    # After the lock: a record that was committed before it was had is seen.
    record = session.get(IdempotencyRecord, (account_id, key))
    if record is not None and _is_old(session, record):
        session.delete(record)
        session.flush()
        return None
    return record


def keep(
    session: Session,
    account_id: str,
    key: str,
    *,
    fingerprint: str,
    status: int,
    headers: JsonObject,
    body: bytes,
) -> None:
    """Keep an answer; where one is kept already it stays, as it was the first."""
    answer = {"fingerprint": fingerprint, "status": status, "headers": headers, "body": body}
    session.execute(
        insert(IdempotencyRecord)
        .values(account_id=account_id, key=key, **answer)
        .on_conflict_do_update(
            index_elements=["account_id", "key"],
            set_=answer,
            where=IdempotencyRecord.status == PENDING,
        )
    )


def forget(session: Session, account_id: str, key: str) -> None:
    """The request came to nothing: the next one with its key is a first one."""
    session.execute(
        delete(IdempotencyRecord).where(
            IdempotencyRecord.account_id == account_id, IdempotencyRecord.key == key
        )
    )


def prune(session: Session) -> int:
    """Forget answers that are no longer promised; how many."""
    old = (
        select(IdempotencyRecord.account_id, IdempotencyRecord.key)
        .where(IdempotencyRecord.created_at < func.now() - _promised())
        .limit(PRUNED_AT_ONCE)
        .with_for_update(skip_locked=True)
        .subquery()
    )
    return len(
        session.scalars(
            delete(IdempotencyRecord)
            .where(
                IdempotencyRecord.account_id == old.c.account_id,
                IdempotencyRecord.key == old.c.key,
            )
            .returning(IdempotencyRecord.key)
        ).all()
    )


def _is_old(session: Session, record: IdempotencyRecord) -> bool:
    return bool(session.scalar(select(func.now() - _promised() > record.created_at)))


def _promised() -> timedelta:
    return timedelta(seconds=get_settings().idempotency_seconds)
