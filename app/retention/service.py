"""Deletion that really deletes: rows at once, their objects by the sweeper.

Whoever deletes rows dooms their objects in the same transaction. Whoever stores an object under
the hash of its content holds the account's objects first, in the transaction that writes the row:
so none is removed between the look at the rows and the row that needs it.
"""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.database import utc_now
from app.jobs import lifecycle
from app.retention import references
from app.retention.models import DoomedObject
from app.settings import get_settings
from app.storage import ObjectStore

log = logging.getLogger(__name__)

BATCH = 200
# Of the removed ones, as many are named in the audit log; all are counted.
AUDITED_KEYS = 20
# How soon an object that an unfinished job needs is looked at again.
LOOK_AGAIN = timedelta(minutes=10)


def hold(session: Session, account_id: str) -> None:
    """Until the transaction ends, no object of the account is removed.

    Waits for a removal that is under way; what it removed is gone, so store what you need after
    this, even if it was there before.
    """
    session.execute(select(func.pg_advisory_xact_lock_shared(_lock(account_id))))


def doom(session: Session, account_id: str, keys: Iterable[str]) -> None:
    """Have objects removed once no row and no unfinished job needs them.

    Not before `removal_delay_seconds` from now: a backup whose database is older than its copy of
    the bucket may still need them.
    """
    doomed = _dooming(account_id, keys)
    if doomed is not None:
        session.execute(
            doomed.on_conflict_do_update(
                index_elements=["object_key"], set_={"look_at": doomed.excluded.look_at}
            )
        )


def sweep_doomed(session: Session, store: ObjectStore) -> int:
    """Remove the doomed objects of one account that are due; how many, 0 when none are left.

    The caller commits, so that another sweeper may take the next account meanwhile.

    Raises:
        StorageUnavailable: the server is away; what was removed is looked at again, and is no
            error then.
    """
    passed_over: set[str] = set()
    while True:
        account_id = session.scalar(
            select(DoomedObject.account_id)
            .where(
                DoomedObject.look_at <= func.now(),
                DoomedObject.account_id.not_in(passed_over),
            )
            .limit(1)
        )
        if account_id is None:
            return 0
        if session.scalar(select(func.pg_try_advisory_xact_lock(_lock(account_id)))):
            return _sweep_account(session, store, account_id)
        passed_over.add(account_id)


def sweep_orphans(session: Session, store: ObjectStore, older_than_seconds: float) -> list[str]:
    """Doom what is stored but needed by nothing, such as the files of a lost attempt.

    Args:
        older_than_seconds: younger objects are left: their rows may not have been committed yet.

    Returns:
        The doomed keys.
    """
    newest = utc_now() - timedelta(seconds=older_than_seconds)
    orphans: list[str] = []
    for page in store.pages("accounts/"):
        by_account: dict[str, list[str]] = {}
        for found in page:
            account_id = references.account_of(found.key)
            if account_id is not None and found.modified_at <= newest:
                by_account.setdefault(account_id, []).append(found.key)
        for account_id, keys in by_account.items():
            unneeded = sort_out(session, account_id, keys)[0]
            if (doomed := _dooming(account_id, unneeded)) is not None:
                # One that waits to be removed already does not begin to wait anew.
                session.execute(doomed.on_conflict_do_nothing(index_elements=["object_key"]))
            orphans += unneeded
    if orphans:
        log.info("doomed %d objects that nothing refers to", len(orphans))
    return orphans


def sort_out(session: Session, account_id: str, keys: Sequence[str]) -> tuple[list[str], set[str]]:
    """Of an account's objects those that nothing needs, and those that only an unfinished job does.

    Args:
        keys: a page of them.
    """
    left = set(keys) - references.shown(session, keys)
    awaited = references.awaited(session, account_id, left)
    return sorted(left - awaited), awaited


def _sweep_account(session: Session, store: ObjectStore, account_id: str) -> int:
    due = (DoomedObject.account_id == account_id) & (DoomedObject.look_at <= func.now())
    keys = session.scalars(select(DoomedObject.object_key).where(due).limit(BATCH)).all()
    # A statement of its own, after the lock: it sees what was committed before.
    unneeded, awaited = sort_out(session, account_id, keys)
    store.delete(unneeded)
    session.execute(
        update(DoomedObject)
        .where(DoomedObject.object_key.in_(awaited))
        .values(look_at=func.now() + LOOK_AGAIN)
    )
    # Those that a row shows are forgotten as well: who deletes that row will doom them again.
    gone = [key for key in keys if key not in awaited]
    session.execute(delete(DoomedObject).where(DoomedObject.object_key.in_(gone)))
    if unneeded:
        changes = {"objects": len(unneeded), "keys": unneeded[:AUDITED_KEYS]}
        audit.record(session, "objects.remove", None, account_id=account_id, changes=changes)
    log.info("removed %d objects of %s", len(unneeded), account_id)
    return len(keys)


def _dooming(account_id: str, keys: Iterable[str]) -> Insert | None:
    look_at = lifecycle.from_now(get_settings().removal_delay_seconds)
    rows = [
        {"object_key": key, "account_id": account_id, "look_at": look_at}
        for key in sorted(set(keys))
    ]
    return insert(DoomedObject).values(rows) if rows else None


def _lock(account_id: str) -> int:
    digest = hashlib.sha256(f"objects:{account_id}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)
