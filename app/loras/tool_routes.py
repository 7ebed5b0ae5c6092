"""LoRA tools over HTTP."""

from fastapi import APIRouter
from sqlalchemy.orm import Session

from app.jobs import service as jobs
from app.jobs.kind_routes import add_job_routes
from app.jobs.models import Job
from app.jobs.schemas import job_fields
from app.loras import tools
from app.loras.tool_schemas import LoraToolCreate, LoraToolRead, ToolInput
from app.web.dependencies import (
    GenerationsAccount,
    PageAfter,
    PageLimit,
    RequestId,
    SessionDep,
)
from app.web.once import OnceRoute
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/lora-tools", tags=["loras"], route_class=OnceRoute)
routers = [router]


@router.post("", status_code=201)
def create_lora_tool(
    request: LoraToolCreate,
    account: GenerationsAccount,
    session: SessionDep,
    request_id: RequestId,
) -> LoraToolRead:
    """Queue a conversion, a resize, a merge or an extraction."""
    job_id = tools.submit(session, account.id, request, request_id)
    return _read(session, jobs.get(session, account.id, job_id))


@router.get("")
def list_lora_tools(
    account: GenerationsAccount,
    session: SessionDep,
    limit: PageLimit = 20,
    after: PageAfter = None,
) -> Page[LoraToolRead]:
    """The account's LoRA tools, newest first."""
    rows = jobs.list_newest(session, account.id, limit=limit + 1, after=after, kind="lora_tool")
    return page_of(rows, limit, lambda job: _read(session, job))


@router.get("/{job_id}")
def get_lora_tool(job_id: str, account: GenerationsAccount, session: SessionDep) -> LoraToolRead:
    """One tool; once it has succeeded, what it made and how exact that is."""
    return _read(session, jobs.get(session, account.id, job_id, "lora_tool"))


def _read(session: Session, job: Job) -> LoraToolRead:
    detail = tools.detail(session, job)
    request = dict(detail.request)
    inputs = request.pop("inputs")
    fields = ("lora", "name", "weight", "sha256")
    return LoraToolRead(
        **job_fields(session, job),
        operation=detail.operation,
        request=request,
        inputs=[ToolInput(**{name: each[name] for name in fields}) for each in inputs],
        report=detail.report,
        lora=detail.lora_id,
    )


add_job_routes(router, "lora_tool", "generations", LoraToolRead, _read)
