"""Accounts as operators see and change them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.accounts.key_schemas import ApiKeyCreate
from app.accounts.quotas import LIMITS
from app.accounts.service import Role
from app.accounts.usage_schemas import QuotaRead
from app.web.text import PlainText


def _known(limits: dict[str, float | None]) -> dict[str, float | None]:
    if unknown := sorted(set(limits) - set(LIMITS)):
        raise ValueError(f"no limit {unknown[0]!r}; there are {', '.join(LIMITS)}")
    return limits


Limit = Annotated[float, Field(ge=0, le=2**53, allow_inf_nan=False)]
# By name, in place of the settings'; null is without limit.
Limits = Annotated[dict[str, Limit | None], AfterValidator(_known)]


class AccountCreate(BaseModel):
    """A new account without keys."""

    model_config = ConfigDict(extra="forbid")

    name: PlainText = Field(min_length=1, max_length=200)
    role: Role = "customer"
    limits: Limits = {}


class AccountPatch(BaseModel):
    """What is given, and not null, is changed; `limits` as a whole."""

    model_config = ConfigDict(extra="forbid")

    name: PlainText | None = Field(default=None, min_length=1, max_length=200)
    role: Role | None = None
    limits: Limits | None = None


class AccountSuspend(BaseModel):
    """The reason is told to the account's users."""

    model_config = ConfigDict(extra="forbid")

    reason: PlainText = Field(min_length=1, max_length=500)


class OperatorKeyCreate(ApiKeyCreate):
    """A key for any account."""


class AccountOverview(BaseModel):
    """An account in a list."""

    id: str
    object: Literal["account"] = "account"
    name: str
    role: Role
    limits: dict[str, float | None]
    suspended_at: datetime | None
    suspended_reason: str | None
    created_at: datetime
    # Jobs of every kind, now.
    queued: int
    running: int
    # What its jobs have taken since the month began, UTC.
    gpu_seconds_this_month: float


class AccountDetails(AccountOverview):
    """One account, with every quota."""

    quotas: dict[str, QuotaRead]
