"""What an account may have, has, and has used, over HTTP."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query

from app.accounts import quotas, usage
from app.accounts.usage_schemas import (
    AccountRead,
    QuotaRead,
    UsageDayRead,
    UsageRead,
    UsageTotal,
)
from app.errors import FieldProblem, Invalid
from app.web.dependencies import AnyAccount, SessionDep
from app.web.text import Day

router = APIRouter(prefix="/v1", tags=["account"])
routers = [router]

DEFAULT_DAYS = 30
MAX_DAYS = 366


@router.get("/account")
def get_account(account: AnyAccount, session: SessionDep) -> AccountRead:
    """The account of the key, with every quota and how much of it is used."""
    return AccountRead(
        id=account.id,
        name=account.name,
        quotas={
            name: QuotaRead(
                used=quotas.used(session, account.id, name), limit=quotas.limit_of(account, name)
            )
            for name in quotas.QUOTAS
        },
        created_at=account.created_at,
    )


@router.get("/usage")
def get_usage(
    account: AnyAccount,
    session: SessionDep,
    from_: Annotated[
        Day | None, Query(alias="from", description="First day, UTC; 29 days before the last")
    ] = None,
    to: Annotated[Day | None, Query(description="Last day, UTC; today")] = None,
) -> UsageRead:
    """What the account's jobs have taken, by day and kind."""
    last = to or usage.today()
    first = from_ or last - timedelta(days=DEFAULT_DAYS - 1)
    days = (last - first).days + 1
    if not 1 <= days <= MAX_DAYS:
        detail = f"from {first} to {last} are {days} days; 1 to {MAX_DAYS} can be asked for"
        raise Invalid(detail, [FieldProblem("/from", detail)])
    rows = usage.by_day(session, account.id, first, last)
    return UsageRead(
        first_day=first,
        last_day=last,
        data=[
            UsageDayRead(
                day=row.day,
                kind=row.kind,
                jobs=row.jobs,
                gpu_seconds=round(row.gpu_seconds, 3),
                images=row.images,
            )
            for row in rows
        ],
        total=UsageTotal(
            jobs=sum(row.jobs for row in rows),
            gpu_seconds=round(sum(row.gpu_seconds for row in rows), 3),
            images=sum(row.images for row in rows),
        ),
        stored_bytes=usage.stored_bytes(session, account.id),
    )
