"""Generations over HTTP."""

from fastapi import APIRouter
from sqlalchemy.orm import Session

from app.generations import service
from app.generations.models import Generation
from app.generations.schemas import (
    GeneratedImageRead,
    GenerationCreate,
    GenerationRead,
    LoraReport,
)
from app.jobs import service as jobs
from app.jobs.kind_routes import add_job_routes
from app.jobs.models import Job
from app.jobs.schemas import job_fields
from app.storage import get_store
from app.web.dependencies import (
    GenerationsAccount,
    PageAfter,
    PageLimit,
    RequestId,
    SessionDep,
)
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/generations", tags=["generations"])
routers = [router]


@router.post("", status_code=201)
def create_generation(
    request: GenerationCreate,
    account: GenerationsAccount,
    session: SessionDep,
    request_id: RequestId,
) -> GenerationRead:
    """Queue pictures from a prompt and up to five weighted LoRAs."""
    generation = service.submit(session, account.id, request, request_id)
    return _read(session, jobs.get(session, account.id, generation.id))


@router.get("")
def list_generations(
    account: GenerationsAccount,
    session: SessionDep,
    limit: PageLimit = 20,
    after: PageAfter = None,
) -> Page[GenerationRead]:
    """The account's generations, newest first."""
    rows = jobs.list_newest(session, account.id, limit=limit + 1, after=after, kind="generation")
    return page_of(rows, limit, lambda job: _read(session, job))


@router.get("/{job_id}")
def get_generation(job_id: str, account: GenerationsAccount, session: SessionDep) -> GenerationRead:
    """One generation; its pictures are there once it has succeeded."""
    return _read(session, jobs.get(session, account.id, job_id, "generation"))


def _read(session: Session, job: Job) -> GenerationRead:
    detail = session.get_one(Generation, job.id)
    reports = {report["lora"]: report for report in detail.lora_reports}
    store = get_store()
    return GenerationRead(
        **job_fields(session, job),
        base_model=detail.base_model,
        request=detail.request,
        loras=[
            LoraReport(
                lora=use["lora"],
                name=use["name"],
                weight=use["weight"],
                # Rows from before there were ranges do not say.
                start=use.get("start", 0.0),
                end=use.get("end", 1.0),
                matched=reports.get(use["lora"], {}).get("matched"),
                unmatched=reports.get(use["lora"], {}).get("unmatched", []),
            )
            for use in detail.loras
        ],
        images=[
            GeneratedImageRead(
                index=image.index,
                url=store.presign_get(image.object_key),
                seed=image.seed,
                width=image.width,
                height=image.height,
                format=image.format,
                bytes=image.bytes,
                sha256=image.sha256,
            )
            for image in service.images(session, job.id)
        ],
        receipt=detail.receipt,
    )


add_job_routes(router, "generation", "generations", GenerationRead, _read)
