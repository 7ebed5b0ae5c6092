"""Generations over HTTP."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, UploadFile
from sqlalchemy.orm import Session

from app.generations import inputs, service
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
from app.storage import ObjectStore, get_store
from app.web.dependencies import (
    GenerationsAccount,
    PageAfter,
    PageLimit,
    RequestId,
    SessionDep,
    StoreDep,
)
from app.web.once import OnceRoute
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/generations", tags=["generations"], route_class=OnceRoute)
input_images = APIRouter(prefix="/v1/inputs", tags=["generations"], route_class=OnceRoute)
routers = [router, input_images]


@router.post("", status_code=201)
def create_generation(
    request: GenerationCreate,
    account: GenerationsAccount,
    session: SessionDep,
    store: StoreDep,
    request_id: RequestId,
) -> GenerationRead:
    """Queue pictures from a prompt and up to five weighted LoRAs."""
    generation = service.submit(session, store, account.id, request, request_id)
    return _read(session, jobs.get(session, account.id, generation.id))


@router.post("/{job_id}/replay", status_code=201)
def replay_generation(
    job_id: str, account: GenerationsAccount, session: SessionDep, request_id: RequestId
) -> GenerationRead:
    """Make the same pictures again, as a new job."""
    generation = service.replay(session, account.id, job_id, request_id)
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


@input_images.post("", status_code=201)
def upload_input(
    file: Annotated[UploadFile, File(description="One picture, or a mask")],
    account: GenerationsAccount,
    session: SessionDep,
    store: StoreDep,
) -> InputImageRead:
    """Keep a picture for `init_image` and `mask_image` of generations."""
    name = (file.filename or "file").replace("\\", "/").rsplit("/", 1)[-1] or "file"
    with tempfile.TemporaryDirectory(prefix="lorawright-input-") as folder:
        path = Path(folder, "picture")
        with path.open("wb") as sink:
            shutil.copyfileobj(file.file, sink, 1024 * 1024)
        return _read_input(store, inputs.add(session, store, account.id, path, name))


@input_images.get("/{image_id}")
def get_input(
    image_id: str, account: GenerationsAccount, session: SessionDep, store: StoreDep
) -> InputImageRead:
    """One uploaded picture."""
    return _read_input(store, inputs.get(session, account.id, image_id))


def _read_input(store: ObjectStore, image: InputImage) -> InputImageRead:
    shown = {
        name: getattr(image, name)
        for name in InputImageRead.model_fields
        if hasattr(InputImage, name)
    }
    return InputImageRead(**shown, url=store.presign_get(image.object_key))


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
