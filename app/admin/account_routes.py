"""Every account, for operators."""

from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy.orm import Session

from app.accounts import keys, quotas, service, usage
from app.accounts.key_routes import made
from app.accounts.key_schemas import ApiKeyMade
from app.accounts.models import Account
from app.accounts.usage_schemas import QuotaRead
from app.admin import overview
from app.admin.account_schemas import (
    AccountCreate,
    AccountDetails,
    AccountOverview,
    AccountPatch,
    AccountSuspend,
    OperatorKeyCreate,
)
from app.web.dependencies import Operator, PageAfter, PageLimit, SessionDep
from app.web.once import OnceRoute
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/admin/accounts", tags=["admin"], route_class=OnceRoute)
routers = [router]


@router.post("", status_code=201)
def create_account(body: AccountCreate, _: Operator, session: SessionDep) -> AccountDetails:
    """Make an account; `POST …/{id}/api-keys` gives it a key."""
    account = service.create_account(session, body.name, body.role)
    session.refresh(account)
    if body.limits:
        service.edit(session, account, {"limits": body.limits})
    return _details(session, account)


@router.get("")
def list_accounts(
    _: Operator, session: SessionDep, limit: PageLimit = 20, after: PageAfter = None
) -> Page[AccountOverview]:
    """All accounts, newest first, with what each has at work."""
    rows = service.list_newest(session, limit=limit + 1, after=after)
    at_work = overview.jobs_at_work(session, [row.id for row in rows])

    def read(account: Account) -> AccountOverview:
        return AccountOverview(**_fields(session, account, at_work.get(account.id, {})))

    return page_of(rows, limit, read)


@router.get("/{account_id}")
def get_any_account(account_id: str, _: Operator, session: SessionDep) -> AccountDetails:
    """One account, with every quota and how much of it is used."""
    return _details(session, service.get(session, account_id))


@router.patch("/{account_id}")
def edit_account(
    account_id: str, body: AccountPatch, _: Operator, session: SessionDep
) -> AccountDetails:
    """Change an account's name, role or limits."""
    account = service.get(session, account_id, to_change=True)
    return _details(session, service.edit(session, account, body.model_dump(exclude_none=True)))


@router.post("/{account_id}/suspend")
def suspend_account(
    account_id: str, body: AccountSuspend, _: Operator, session: SessionDep
) -> AccountDetails:
    """Refuse the account's keys and leave its waiting jobs; what runs goes on to its end."""
    account = service.get(session, account_id, to_change=True)
    service.suspend(session, account, body.reason)
    return _details(session, account)


@router.post("/{account_id}/resume")
def resume_account(account_id: str, _: Operator, session: SessionDep) -> AccountDetails:
    """Undo a suspension."""
    account = service.get(session, account_id, to_change=True)
    service.resume(session, account)
    return _details(session, account)


@router.post("/{account_id}/api-keys", status_code=201)
def create_key_of_account(
    account_id: str, body: OperatorKeyCreate, _: Operator, session: SessionDep, request: Request
) -> ApiKeyMade:
    """Make a key for an account. Its secret is shown in this answer and never again."""
    scopes = tuple(scope for scope in keys.ALL_SCOPES if scope in body.scopes)
    key, secret = keys.create_key(session, account_id, body.name, scopes, body.expires_at)
    session.refresh(key)
    return made(request, key, secret)


@router.delete("/{account_id}/api-keys/{key_id}", status_code=204)
def revoke_key_of_account(account_id: str, key_id: str, _: Operator, session: SessionDep) -> None:
    """Let a key of an account work no more."""
    keys.revoke(session, keys.get(session, account_id, key_id, to_change=True))


def _details(session: Session, account: Account) -> AccountDetails:
    at_work = overview.jobs_at_work(session, [account.id]).get(account.id, {})
    return AccountDetails(
        **_fields(session, account, at_work),
        quotas={
            name: QuotaRead(
                used=quotas.used(session, account.id, name), limit=quotas.limit_of(account, name)
            )
            for name in quotas.QUOTAS
        },
    )


def _fields(session: Session, account: Account, at_work: dict[str, int]) -> dict[str, Any]:
    return {
        "id": account.id,
        "name": account.name,
        "role": account.role,
        "limits": account.limits,
        "suspended_at": account.suspended_at,
        "suspended_reason": account.suspended_reason,
        "created_at": account.created_at,
        "queued": at_work.get("queued", 0),
        "running": at_work.get("running", 0),
        "gpu_seconds_this_month": usage.gpu_seconds_this_month(session, account.id),
    }
