"""Write and read the audit log. No secret is ever written to it."""

from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import structlog
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.audit.models import AuditEntry
from app.database import new_id
from app.settings import get_settings

PRUNED_AT_ONCE = 1000


@dataclass(frozen=True)
class Actor:
    """Who acts: the API for a key, somebody at a command line, or the service by itself."""

    kind: Literal["api", "cli", "service"]
    account_id: str | None = None
    key_id: str | None = None


SERVICE = Actor("service")
_actor: ContextVar[Actor] = ContextVar("actor", default=SERVICE)


def act_as(actor: Actor) -> None:
    """What is done from now on in this context is written down as this actor's."""
    _actor.set(actor)


def record(
    session: Session,
    action: str,
    object_id: str | None,
    *,
    account_id: str | None,
    changes: dict[str, Any] | None = None,
) -> None:
    """Write an act down, in the transaction that does it.

    Args:
        action: `<object>.<verb>`.
        account_id: whose object it is.
        changes: JSON values, by name; of a change [before, after].
    """
    actor = _actor.get()
    session.add(
        AuditEntry(
            id=new_id("aud"),
            account_id=account_id,
            actor=actor.kind,
            actor_account_id=actor.account_id,
            actor_key_id=actor.key_id,
            request_id=structlog.contextvars.get_contextvars().get("request_id"),
            action=action,
            object_id=object_id,
            changes=changes or {},
        )
    )


def prune(session: Session) -> int:
    """Forget entries that are older than they are kept; how many."""
    kept = timedelta(seconds=get_settings().audit_keep_seconds)
    old = (
        select(AuditEntry.id)
        .where(AuditEntry.created_at < func.now() - kept)
        .order_by(AuditEntry.id)
        .limit(PRUNED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    gone = delete(AuditEntry).where(AuditEntry.id.in_(old.scalar_subquery()))
    return len(session.scalars(gone.returning(AuditEntry.id)).all())


def list_newest(
    session: Session,
    *,
    limit: int,
    after: str | None,
    account_id: str | None = None,
    action: str | None = None,
    object_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[AuditEntry]:
    """Up to `limit` entries, newest first, of those that every given value fits.

    Args:
        action: a whole action, or its object with a dot at the end (`api_key.`).
        since, until: the first moment, and the first one after the last.
    """
    query = select(AuditEntry)
    if account_id is not None:
        query = query.where(AuditEntry.account_id == account_id)
    if action is not None:
        whole = not action.endswith(".")
        matches = AuditEntry.action == action if whole else AuditEntry.action.startswith(action)
        query = query.where(matches)
    if object_id is not None:
        query = query.where(AuditEntry.object_id == object_id)
    if since is not None:
        query = query.where(AuditEntry.created_at >= since)
    if until is not None:
        query = query.where(AuditEntry.created_at < until)
    if after is not None:
        query = query.where(AuditEntry.id < after)
    return list(session.scalars(query.order_by(AuditEntry.id.desc()).limit(limit)))
