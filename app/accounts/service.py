"""Accounts and keys: making them, and finding who a bearer token speaks for."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.accounts.models import Account, ApiKey
from app.database import new_id
from app.errors import NotFound, Unauthenticated
from app.isolation import ACROSS_ACCOUNTS

Scope = Literal["datasets", "trainings", "generations", "admin"]
ALL_SCOPES: tuple[Scope, ...] = get_args(Scope)
KEY_PREFIX = "lw_live_"
# Any constant: it serialises two processes that bootstrap the same database at once.
BOOTSTRAP_LOCK = 7_310_551
USE_NOTED_EVERY = timedelta(minutes=1)


def create_account(session: Session, name: str) -> Account:
    """A new account without keys."""
    account = Account(id=new_id("acct"), name=name)
    session.add(account)
    session.flush()
    return account


def create_key(
    session: Session, account_id: str, name: str, scopes: tuple[Scope, ...] = ALL_SCOPES
) -> tuple[ApiKey, str]:
    """A new key and its secret, which is never shown again.

    Raises:
        NotFound: no such account.
    """
    if session.get(Account, account_id) is None:
        raise NotFound(f"No account {account_id}")
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key"),
        account_id=account_id,
        name=name,
        prefix=secret[: len(KEY_PREFIX) + 6],
        secret_sha256=_hash(secret),
        scopes=list(scopes),
    )
    session.add(key)
    session.flush()
    return key, secret


def authenticate(session: Session, secret: str) -> ApiKey:
    """The key a bearer token is, with its account.

    Raises:
        Unauthenticated: unknown or revoked.
    """
    key = session.scalar(
        select(ApiKey).where(ApiKey.secret_sha256 == _hash(secret), ApiKey.revoked_at.is_(None)),
        execution_options=ACROSS_ACCOUNTS,
    )
    if key is None:
        raise Unauthenticated("The API key is unknown or has been revoked")
    _note_use(session, key)
    return key


def _note_use(session: Session, key: ApiKey) -> None:
    """Set when the key was last used, at most once a minute: enough to tell used from forgotten."""
    if key.last_used_at is not None and datetime.now(UTC) - key.last_used_at < USE_NOTED_EVERY:
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


def account_of_secret(session: Session, secret: str) -> str | None:
    """Whose a bearer token is, whether or not it may still be used; None of an unknown one."""
    return session.scalar(
        select(ApiKey.account_id).where(ApiKey.secret_sha256 == _hash(secret)),
        execution_options=ACROSS_ACCOUNTS,
    )


def bootstrap_admin(session: Session) -> str | None:
    """The first account and its admin key on an empty database; None when there is one already."""
    session.execute(select(func.pg_advisory_xact_lock(BOOTSTRAP_LOCK)))
    if session.scalar(select(Account.id).limit(1)) is not None:
        return None
    account = create_account(session, "admin")
    _, secret = create_key(session, account.id, "first admin key")
    return secret


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
