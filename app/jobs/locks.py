"""An account's lock: only who holds it claims from its lines, until the transaction ends."""

import hashlib
from contextlib import closing
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session


class LockInTurn:
    """One account's lock after another, the last of them held until the transaction ends.

    Taking the next gives back the one before, of whose line nothing was taken: nobody waits
    holding one.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before = "SAVEPOINT line"

    def take_if_free(self, account_id: str) -> bool:
        """Whether the lock was had; never waits."""
        return bool(self._next(f"pg_try_advisory_xact_lock({_number(account_id)})"))

    def take(self, account_id: str) -> None:
        """Have the lock, however long another claim holds it."""
        self._next(f"pg_advisory_xact_lock({_number(account_id)})")

    def _next(self, call: str) -> Any:
        # Two statements in one go, as a claim is mostly ways to Postgres and back; SQLAlchemy reads
        # the answer of the first alone. A lost connection it notices at the rollback.
        with closing(self._session.connection().connection.cursor()) as cursor:
            cursor.execute(f"{self._before}; SELECT {call}")
            self._before = "ROLLBACK TO SAVEPOINT line"
            cursor.nextset()
            return cursor.fetchall()[0][0]


def add_if_free(session: Session, account_id: str) -> bool:
    """Whether one more lock was had, beside those that are held; never waits."""
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(_number(account_id)))))


def _number(account_id: str) -> int:
    digest = hashlib.sha256(f"claim:{account_id}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)
