"""How much an account may have, and has: checked where something is created.

Each quota has a default among the settings; an account may have another (`Account.limits`).
"""

from collections.abc import Callable
from typing import Literal, get_args

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.accounts import usage
from app.accounts.models import Account
from app.errors import NotFound, QuotaExceeded
from app.settings import get_settings

Quota = Literal[
    "datasets",
    "loras",
    "stored_bytes",
    "api_keys",
    "webhooks",
    "queued_jobs",
    "running_jobs",
    "gpu_seconds_per_month",
]
QUOTAS: tuple[Quota, ...] = get_args(Quota)
# Limits that an account may have of its own too, though they are none of all it has together: one
# is counted in Redis (`web/rate_limit.py`), the other of each dataset.
REQUESTS = "requests_per_minute"
IMAGES = "images_per_dataset"
LIMITS: tuple[str, ...] = (*QUOTAS, REQUESTS, IMAGES)
SETTING: dict[Quota, str] = {
    "datasets": "max_datasets_per_account",
    "loras": "max_loras_per_account",
    "stored_bytes": "max_stored_bytes_per_account",
    "api_keys": "max_api_keys_per_account",
    "webhooks": "max_webhooks_per_account",
    "queued_jobs": "max_queued_per_account",
    "running_jobs": "max_running_per_account",
    "gpu_seconds_per_month": "max_gpu_seconds_per_month",
}
# An upload's own work is not the customer's to wait with.
_COUNTS: dict[Quota, str] = {
    "datasets": "SELECT count(*) FROM datasets WHERE account_id = :account_id",
    "loras": "SELECT count(*) FROM loras WHERE account_id = :account_id",
    "api_keys": "SELECT count(*) FROM api_keys WHERE account_id = :account_id "
    "AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
    "webhooks": "SELECT count(*) FROM webhook_endpoints WHERE account_id = :account_id "
    "AND url IS NOT NULL",
    "queued_jobs": "SELECT count(*) FROM jobs WHERE account_id = :account_id "
    "AND queue IN ('caption', 'train', 'generate') AND status = 'queued'",
    "running_jobs": "SELECT count(*) FROM jobs WHERE account_id = :account_id "
    "AND status = 'running'",
}
_COMPUTED: dict[Quota, Callable[[Session, str], float]] = {
    "stored_bytes": lambda session, account_id: sum(
        usage.stored_bytes(session, account_id).values()
    ),
    "gpu_seconds_per_month": usage.gpu_seconds_this_month,
}


def take(session: Session, account_id: str, **more: float) -> None:
    """Let the account have more of something, unless that is more than it may have.

    Until the transaction ends nobody else of the account takes anything, so that two cannot pass
    a limit together; keep it short.

    Args:
        more: by quota, how much; 0 asks only whether anything is left.

    Raises:
        QuotaExceeded: a limit would be passed; it names the figures.
    """
    session.execute(
        text("SELECT FROM accounts WHERE id = :account_id FOR NO KEY UPDATE"),
        {"account_id": account_id},
    )
    check(session, account_id, **more)


def check(session: Session, account_id: str, **more: float) -> None:
    """The same as a look alone, for what takes long: two at once may pass a limit together.

    Raises:
        QuotaExceeded: a limit would be passed; it names the figures.
    """
    account = _account(session, account_id)
    for name in QUOTAS:
        limit = limit_of(account, name)
        if name not in more or limit is None:
            continue
        has = used(session, account_id, name)
        if has + more[name] > limit or (more[name] == 0 and has >= limit):
            raise QuotaExceeded(
                f"The account has {has:g} {_words(name)}, and may have {limit:g} (quota {name}, "
                f"by default LORAWRIGHT_{SETTING[name].upper()}); this would need {more[name]:g} "
                "more"
            )


def used(session: Session, account_id: str, name: Quota) -> float:
    """How much of a quota is used now."""
    if name in _COMPUTED:
        return _COMPUTED[name](session, account_id)
    return session.scalar(text(_COUNTS[name]), {"account_id": account_id}) or 0


def limit_of(account: Account, name: Quota) -> float | None:
    """What the account may have: its own limit, or the setting's; None is without limit."""
    if name in account.limits:
        own: float | None = account.limits[name]
        return own
    limit: float | None = getattr(get_settings(), SETTING[name])
    return limit


def images_per_dataset(session: Session, account_id: str) -> float | None:
    """How many images one dataset of the account may have; None is without limit."""
    default = get_settings().max_images_per_dataset
    limit: float | None = _account(session, account_id).limits.get(IMAGES, default)
    return limit


def _account(session: Session, account_id: str) -> Account:
    account = session.get(Account, account_id)
    if account is None:
        raise NotFound(f"No account {account_id}")
    return account


def _words(name: Quota) -> str:
    return name.replace("_", " ")
