"""The audit log, for operators."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel

from app.audit import service
from app.audit.models import AuditEntry
from app.web.dependencies import Operator, PageAfter, PageLimit, SessionDep
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/admin/audit", tags=["admin"])
routers = [router]


class AuditEntryRead(BaseModel):
    """One act. `changes` holds [before, after] of what was changed."""

    id: str
    object: Literal["audit_entry"] = "audit_entry"
    created_at: datetime
    action: str
    object_id: str | None
    # Whose object it was.
    account_id: str | None
    actor: Literal["api", "cli", "service"]
    actor_account_id: str | None
    actor_key_id: str | None
    request_id: str | None
    changes: dict[str, Any]


@router.get("")
def list_audit_entries(
    _: Operator,
    session: SessionDep,
    account: Annotated[str | None, Query(description="Whose objects", max_length=40)] = None,
    action: Annotated[
        str | None, Query(description="`api_key.revoke`, or all of `api_key.`", max_length=60)
    ] = None,
    object_id: Annotated[str | None, Query(description="Of which object", max_length=80)] = None,
    since: Annotated[AwareDatetime | None, Query(description="From this moment on")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Before this moment")] = None,
    limit: PageLimit = 20,
    after: PageAfter = None,
) -> Page[AuditEntryRead]:
    """Who did what to whose objects, newest first."""
    rows = service.list_newest(
        session,
        limit=limit + 1,
        after=after,
        account_id=account,
        action=action,
        object_id=object_id,
        since=since,
        until=until,
    )
    return page_of(rows, limit, _read)


def _read(entry: AuditEntry) -> AuditEntryRead:
    return AuditEntryRead.model_validate(entry, from_attributes=True)
