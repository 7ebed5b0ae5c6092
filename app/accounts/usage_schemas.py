"""Accounts and their usage on the wire."""

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel


class QuotaRead(BaseModel):
    """What the account has and may have; a limit of null is none."""

    used: float
    limit: float | None


class AccountRead(BaseModel):
    id: str
    object: Literal["account"] = "account"
    name: str
    quotas: dict[str, QuotaRead]
    created_at: datetime


class UsageDayRead(BaseModel):
    """What the jobs of one kind that ended on one day, UTC, have taken."""

    day: date
    kind: str
    jobs: int
    gpu_seconds: float
    images: int


class UsageTotal(BaseModel):
    jobs: int
    gpu_seconds: float
    images: int


class UsageRead(BaseModel):
    """Both days are included; days without usage are left out."""

    object: Literal["usage"] = "usage"
    # `from` is a word of Python's.
    first_day: date
    last_day: date
    data: list[UsageDayRead]
    total: UsageTotal
    # What is stored now, by what it is.
    stored_bytes: dict[str, int]
