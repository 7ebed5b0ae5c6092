"""Generations over HTTP."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.database import transaction
from app.generations import inputs, service
from app.generations.forecast import GenerationForecast
from app.generations.models import Generation, InputImage
from app.generations.schemas import (
    GeneratedImageRead,
    GenerationCreate,
    GenerationRead,
    InputImageRead,
    LoraReport,
)
from app.jobs import service as jobs
from app.jobs.kind_routes import add_job_routes
from app.jobs.models import Job
from app.jobs.schemas import job_fields
from app.settings import get_settings
from app.storage import ObjectStore, get_store
from app.web.dependencies import (
    BriefAccountId,
    DryRun,
    GenerationsAccount,
    PageAfter,
    PageLimit,
    RequestId,
    SessionDep,
    StoreDep,
)
from app.web.forms import Form, FormRules, form_body, receive_form, staging_folder
from app.web.once import OnceRoute
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/generations", tags=["generations"], route_class=OnceRoute)
input_images = APIRouter(prefix="/v1/inputs", tags=["generations"], route_class=OnceRoute)
routers = [router, input_images]


@router.post(
    "",
    status_code=201,
    response_model=GenerationRead,
    responses={
        200: {"model": GenerationForecast, "description": "What it would take, with `dry_run`"}
    },
)
def create_generation(
    dry_run: DryRun,
    request: GenerationCreate,
    account: GenerationsAccount,
    session: SessionDep,
    store: StoreDep,
    request_id: RequestId,
) -> GenerationRead | JSONResponse:
    """Queue pictures from a prompt and up to five weighted LoRAs."""
    if dry_run:
        return JSONResponse(service.try_out(session, account.id, request).model_dump(mode="json"))
    return _read(session, service.submit(session, store, account.id, request, request_id))


@router.post("/{job_id}/replay", status_code=201)
def replay_generation(
    job_id: str, account: GenerationsAccount, session: SessionDep, request_id: RequestId
) -> GenerationRead:
    """Make the same pictures again, as a new job."""
    return _read(session, service.replay(session, account.id, job_id, request_id))


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


@input_images.post("", status_code=201, openapi_extra=form_body("file", "One picture, or a mask"))
async def upload_input(
    request: Request, account_id: BriefAccountId, store: StoreDep
) -> InputImageRead:
    """Keep a picture for `init_image` and `mask_image` of generations."""
    limit = get_settings().max_image_bytes
    rules = FormRules(
        file_field="file",
        max_files=(1, ""),
        max_file_bytes=lambda _: (limit, "LORAWRIGHT_MAX_IMAGE_BYTES"),
    )

    def keep(form: Form) -> InputImageRead:
        [file] = form.files
        with transaction() as session:
            image = inputs.add(session, store, account_id, file.path, file.filename)
            return _read_input(store, image)

    async with staging_folder() as folder:
        form = await receive_form(request, folder, rules)
        return await run_in_threadpool(keep, form)


@input_images.get("/{image_id}")
def get_input(
    image_id: str, account: GenerationsAccount, session: SessionDep, store: StoreDep
) -> InputImageRead:
    """One uploaded picture."""
    return _read_input(store, inputs.get(session, account.id, image_id))


@input_images.delete("/{image_id}", status_code=204)
def delete_input(image_id: str, account: GenerationsAccount, session: SessionDep) -> None:
    """Delete an uploaded picture."""
    inputs.delete(session, inputs.get(session, account.id, image_id))


def _read_input(store: ObjectStore, image: InputImage) -> InputImageRead:
    inputs.check_kept(image)
    shown = {
        name: getattr(image, name)
        for name in InputImageRead.model_fields
        if hasattr(InputImage, name)
    }
    return InputImageRead(**shown, url=store.presign_get(image.object_key))


def _read(session: Session, job: Job) -> GenerationRead:
    detail = session.get_one(Generation, job.id)
    reports = {report["lora"]: report for report in detail.lora_reports}
    store, is_kept = get_store(), job.pictures_gone_at is None
    return GenerationRead(
        **job_fields(session, job),
        base_model=detail.base_model,
        expires_at=job.pictures_expire_at,
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
                url=store.presign_get(image.object_key) if is_kept else None,
                seed=image.seed,
                width=image.width,
                height=image.height,
                format=image.format,
                bytes=image.bytes,
                sha256=image.sha256,
                request=service.request_of(detail, image),
            )
            # They come with the success, and most who ask are waiting for it.
            for image in (service.images(session, job.id) if job.status == "succeeded" else ())
        ],
        receipt=detail.receipt,
    )


add_job_routes(router, "generation", "generations", GenerationRead, _read)
