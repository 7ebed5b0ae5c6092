"""Accounts: making, changing and suspending them."""

from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.accounts import keys
from app.accounts.models import Account
from app.audit import service as audit
from app.broker import WORK_QUEUES, wake_after_commit
from app.database import new_id
from app.errors import NotFound

Role = Literal["customer", "admin"]
# Any constant: it serialises two processes that bootstrap the same database at once.
BOOTSTRAP_LOCK = 7_310_551


def create_account(session: Session, name: str, role: Role = "customer") -> Account:
    """A new account without keys."""
    account = Account(id=new_id("acct"), name=name, role=role)
    session.add(account)
    session.flush()
    changes = {"name": name, "role": role}
    audit.record(session, "account.create", account.id, account_id=account.id, changes=changes)
    return account


def get(session: Session, account_id: str, *, to_change: bool = False) -> Account:
    """An account.

    Raises:
        NotFound: there is none of that id.
    """
    account = session.get(Account, account_id, with_for_update=to_change)
    if account is None:
        raise NotFound(f"No account {account_id}")
    return account


def list_newest(session: Session, *, limit: int, after: str | None) -> list[Account]:
    """Up to `limit` accounts, newest first."""
    query = select(Account)
    if after is not None:
        query = query.where(Account.id < after)
    return list(session.scalars(query.order_by(Account.id.desc()).limit(limit)))


def edit(session: Session, account: Account, changes: dict[str, Any]) -> Account:
    """Change an account's `name`, `role` or `limits`; keys that were made for its old role stay.

    A key with the scope `admin` of an account that is no longer an admin's opens nothing.
    """
    told: dict[str, Any] = {}
    for name, value in changes.items():
        was = getattr(account, name)
        if was != value:
            told[name] = [was, value]
            setattr(account, name, value)
    if told:
        session.flush()
        audit.record(session, "account.edit", account.id, account_id=account.id, changes=told)
    return account


def suspend(session: Session, account: Account, reason: str) -> None:
    """Refuse its keys and leave its waiting jobs where they are; what runs goes on to its end."""
    account.suspended_at = account.suspended_at or datetime.now(UTC)
    account.suspended_reason = reason
    session.flush()
    audit.record(
        session, "account.suspend", account.id, account_id=account.id, changes={"reason": reason}
    )


def resume(session: Session, account: Account) -> None:
    """Let its keys work and its waiting jobs be claimed again."""
    if account.suspended_at is None:
        return
    account.suspended_at = account.suspended_reason = None
    session.flush()
    audit.record(session, "account.resume", account.id, account_id=account.id)
    for queue in WORK_QUEUES:
        wake_after_commit(session, queue)


def bootstrap_admin(session: Session) -> str | None:
    """The first account and its admin key on an empty database; None when there is one already."""
    session.execute(select(func.pg_advisory_xact_lock(BOOTSTRAP_LOCK)))
    if session.scalar(select(Account.id).limit(1)) is not None:
        return None
    account = create_account(session, "admin", role="admin")
    _, secret = keys.create_key(session, account.id, "first admin key", keys.ALL_SCOPES)
    return secret
