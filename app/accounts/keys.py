"""API keys: making and changing them, and finding who a bearer token speaks for."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app.accounts.models import Account, ApiKey
from app.audit import service as audit
from app.database import new_id
from app.errors import (
    AccountSuspended,
    ApiKeyExpired,
    Conflict,
    FieldProblem,
    Invalid,
    NotFound,
    Unauthenticated,
)
from app.isolation import ACROSS_ACCOUNTS

Scope = Literal["datasets", "trainings", "generations", "admin"]
ALL_SCOPES: tuple[Scope, ...] = get_args(Scope)
CUSTOMER_SCOPES: tuple[Scope, ...] = ("datasets", "trainings", "generations")
KEY_PREFIX = "lw_live_"
USE_NOTED_EVERY = timedelta(minutes=1)


def create_key(
    session: Session,
    account_id: str,
    name: str,
    scopes: tuple[Scope, ...] = CUSTOMER_SCOPES,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its secret, which is never shown again.

    Raises:
        NotFound: no such account.
        Invalid: it would expire in the past, or the scope `admin` is not for the account.
    """
    account = session.get(Account, account_id)
    if account is None:
        raise NotFound(f"No account {account_id}")
    if "admin" in scopes and account.role != "admin":
        detail = f"Only accounts with the role admin have keys with the scope admin; {account.id} "
        detail += f"has the role {account.role}"
        raise Invalid(detail, [FieldProblem("/scopes", detail)])
    if expires_at is not None and expires_at <= datetime.now(UTC):
        detail = f"expires_at is {expires_at.isoformat()}, which is not in the future"
        raise Invalid(detail, [FieldProblem("/expires_at", detail)])
    secret = _new_secret()
    key = ApiKey(
        id=new_id("key"),
        account_id=account_id,
        name=name,
        prefix=_prefix(secret),
        secret_sha256=_hash(secret),
        scopes=list(scopes),
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    changes = {"name": name, "scopes": list(scopes), "prefix": key.prefix}
    if expires_at is not None:
        changes["expires_at"] = expires_at.isoformat()
    audit.record(session, "api_key.create", key.id, account_id=account_id, changes=changes)
    return key, secret


def rotate(session: Session, key: ApiKey, overlap: timedelta) -> str:
    """Give a key a new secret; the one before works for so long besides. The new secret.

    Raises:
        Conflict: the key has been revoked or has expired.
    """
    if not works(key):
        raise Conflict(f"{key.id} no longer works; make another key")
    secret = _new_secret()
    was = key.prefix
    key.previous_sha256 = key.secret_sha256 if overlap else None
    key.previous_until = datetime.now(UTC) + overlap if overlap else None
    key.secret_sha256, key.prefix = _hash(secret), _prefix(secret)
    session.flush()
    changes = {"prefix": [was, key.prefix], "overlap_seconds": overlap.total_seconds()}
    audit.record(session, "api_key.rotate", key.id, account_id=key.account_id, changes=changes)
    return secret


def revoke(session: Session, key: ApiKey) -> None:
    """Let a key work no more; doing it twice is harmless."""
    if key.revoked_at is not None:
        return
    key.revoked_at = datetime.now(UTC)
    session.flush()
    changes = {"name": key.name, "prefix": key.prefix}
    audit.record(session, "api_key.revoke", key.id, account_id=key.account_id, changes=changes)


def works(key: ApiKey) -> bool:
    """Whether the key is neither revoked nor expired."""
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return key.revoked_at is None and not expired


def get(session: Session, account_id: str, key_id: str, *, to_change: bool = False) -> ApiKey:
    """A key of this account.

    Args:
        to_change: nobody else changes it before the transaction ends.

    Raises:
        NotFound: no such key in this account.
    """
    query = select(ApiKey).where(ApiKey.id == key_id, ApiKey.account_id == account_id)
    if to_change:
        # The account is joined to it, and others may be using that.
        query = query.with_for_update(of=ApiKey)
    key = session.scalar(query)
    if key is None:
        raise NotFound(f"No API key {key_id}")
    return key


def list_newest(
    session: Session, account_id: str, *, limit: int, after: str | None
) -> list[ApiKey]:
    """Up to `limit` keys, newest first, those that no longer work included."""
    query = select(ApiKey).where(ApiKey.account_id == account_id)
    if after is not None:
        query = query.where(ApiKey.id < after)
    return list(session.scalars(query.order_by(ApiKey.id.desc()).limit(limit)))


def authenticate(session: Session, secret: str) -> ApiKey:
    """The key a bearer token is, with its account.

    Raises:
        Unauthenticated: unknown or revoked.
        ApiKeyExpired: its time is over.
        AccountSuspended: an operator has suspended its account.
    """
    return _checked(session, _by_secret(session, secret), _hash(secret))


def of_session(session: Session, key_id: str, mark: str) -> ApiKey:
    """The key that a browser signed in with, with its account.

    Args:
        mark: `session_mark` of the secret that was given then.

    Raises:
        Unauthenticated, ApiKeyExpired, AccountSuspended: as of `authenticate`.
    """
    key = session.scalar(
        select(ApiKey).where(ApiKey.id == key_id), execution_options=ACROSS_ACCOUNTS
    )
    if key is None:
        raise Unauthenticated("The API key of this session is unknown")
    for digest in (key.secret_sha256, key.previous_sha256):
        if digest is not None and _mark(digest) == mark:
            return _checked(session, key, digest)
    raise ApiKeyExpired(f"The API key was replaced by {key.prefix}…; sign in with that")


def session_mark(secret: str) -> str:
    """What tells a key's secrets apart without being of use to anybody."""
    return _mark(_hash(secret))


def _mark(digest: str) -> str:
    return digest[:16]


def _checked(session: Session, key: ApiKey | None, digest: str) -> ApiKey:
    if key is None or key.revoked_at is not None:
        raise Unauthenticated("The API key is unknown or has been revoked")
    now = datetime.now(UTC)
    if key.expires_at is not None and key.expires_at <= now:
        raise ApiKeyExpired(f"The API key {key.prefix}… expired at {key.expires_at.isoformat()}")
    is_previous = key.secret_sha256 != digest
    if is_previous and (key.previous_until is None or key.previous_until <= now):
        raise ApiKeyExpired(f"The API key was replaced by {key.prefix}…, and its overlap is over")
    if key.account.suspended_at is not None:
        reason = f": {key.account.suspended_reason}" if key.account.suspended_reason else ""
        raise AccountSuspended(f"The account {key.account_id} is suspended{reason}")
    _note_use(session, key, now)
    return key


def account_of_secret(session: Session, secret: str) -> Account | None:
    """Whose a bearer token is, whether or not it may still be used; None of an unknown one."""
    key = _by_secret(session, secret)
    return None if key is None else key.account


def account_of_key(session: Session, key_id: str) -> Account | None:
    """Whose a key is, whether or not it may still be used; None of an unknown one."""
    key = session.scalar(
        select(ApiKey).where(ApiKey.id == key_id), execution_options=ACROSS_ACCOUNTS
    )
    return None if key is None else key.account


def _by_secret(session: Session, secret: str) -> ApiKey | None:
    digest = _hash(secret)
    return session.scalar(
        select(ApiKey).where(or_(ApiKey.secret_sha256 == digest, ApiKey.previous_sha256 == digest)),
        execution_options=ACROSS_ACCOUNTS,
    )


def _note_use(session: Session, key: ApiKey, now: datetime) -> None:
    """Set when the key was last used, at most once a minute: enough to tell used from forgotten."""
    if key.last_used_at is not None and now - key.last_used_at < USE_NOTED_EVERY:
        return
    stale = (
        select(ApiKey.id)
        .where(
            ApiKey.id == key.id,
            ApiKey.last_used_at.is_(None) | (ApiKey.last_used_at < func.now() - USE_NOTED_EVERY),
        )
        # A long upload with the same key holds this row: other requests must not wait for it.
        .with_for_update(skip_locked=True, key_share=True)
    )
    session.execute(
        update(ApiKey)
        .where(ApiKey.id.in_(stale))
        .values(last_used_at=func.now())
        .execution_options(synchronize_session=False, **ACROSS_ACCOUNTS)
    )


def _new_secret() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)


def _prefix(secret: str) -> str:
    return secret[: len(KEY_PREFIX) + 6]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
