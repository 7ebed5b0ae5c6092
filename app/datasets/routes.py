"""Datasets over HTTP."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.database import Base, transaction
from app.datasets import caption_edit, deletion, export, service
from app.datasets.intake import staging
from app.datasets.intake.staging import StagedFile
from app.datasets.intake.verify import take_in
from app.datasets.keeping import Added, keep_intake, outcomes_read
from app.datasets.models import Captioning, Dataset, Image
from app.datasets.report import report
from app.datasets.report_schemas import DatasetReport
from app.datasets.schemas import (
    CaptioningCreate,
    CaptioningRead,
    CaptionsEdit,
    CaptionsEdited,
    DatasetCreate,
    DatasetPatch,
    DatasetRead,
    ImagePatch,
    ImageRead,
    UploadRead,
)
from app.jobs import service as jobs
from app.jobs.kind_routes import add_job_routes
from app.jobs.models import Job
from app.jobs.schemas import job_fields
from app.settings import get_settings
from app.storage import ObjectStore
from app.trainings.params import Task
from app.trainings.service import offered_base_model
from app.web.dependencies import (
    BriefDatasetsAccountId,
    DatasetsAccount,
    PageAfter,
    PageLimit,
    RequestId,
    SessionDep,
    StoreDep,
)
from app.web.etags import IfMatch, check_match
from app.web.forms import Form, FormRules, form_body, receive_form, staging_folder
from app.web.once import OnceRoute
from app.web.pages import Page, page_of

datasets = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=OnceRoute)
captionings = APIRouter(prefix="/v1/captionings", tags=["datasets"], route_class=OnceRoute)
routers = [datasets, captionings]


@datasets.post("", status_code=201)
def create_dataset(
    request: DatasetCreate, account: DatasetsAccount, session: SessionDep, store: StoreDep
) -> DatasetRead:
    """Create an empty dataset."""
    return _read(session, store, service.create(session, account.id, request))


@datasets.get("")
def list_datasets(
    account: DatasetsAccount,
    session: SessionDep,
    store: StoreDep,
    limit: PageLimit = 20,
    after: PageAfter = None,
) -> Page[DatasetRead]:
    """The account's datasets, newest first."""
    rows = service.list_newest(session, account.id, limit=limit + 1, after=after)
    return page_of(rows, limit, lambda row: _read(session, store, row))


@datasets.get("/{dataset_id}")
def get_dataset(
    dataset_id: str, account: DatasetsAccount, session: SessionDep, store: StoreDep
) -> DatasetRead:
    """One dataset with its counts and its report."""
    return _read_whole(session, store, service.get(session, account.id, dataset_id))


@datasets.patch("/{dataset_id}")
def edit_dataset(
    dataset_id: str,
    patch: DatasetPatch,
    account: DatasetsAccount,
    session: SessionDep,
    store: StoreDep,
    if_match: IfMatch = None,
) -> DatasetRead:
    """Rename, or set another trigger word or template; captions that are there stay."""
    dataset = service.get(session, account.id, dataset_id)
    if if_match is not None:
        session.refresh(dataset, with_for_update=True)
        check_match(if_match, _read_whole(session, store, dataset))
    return _read_whole(session, store, service.edit(session, dataset, patch))


@datasets.delete("/{dataset_id}", status_code=204)
def delete_dataset(
    dataset_id: str, account: DatasetsAccount, session: SessionDep, store: StoreDep
) -> Response:
    """Delete a dataset with its images; LoRAs and trainings made of it stay."""
    dataset = service.get(session, account.id, dataset_id)
    deletion.delete_dataset(session, store, dataset)
    return Response(status_code=204)


@datasets.get(
    "/{dataset_id}/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/zip": {}}, "description": "The zip"}},
)
def export_dataset(
    dataset_id: str, account_id: BriefDatasetsAccountId, store: StoreDep
) -> StreamingResponse:
    """A zip in kohya's layout: images that are used, .txt captions, dataset.toml."""
    with transaction() as session:
        dataset = service.get(session, account_id, dataset_id)
        planned = export.plan_export(session, dataset)
        name = "".join(c if c.isascii() and c.isalnum() else "_" for c in dataset.name)[:60]
    return StreamingResponse(
        export.stream(store, planned),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{name}.zip"'},
    )


@datasets.post("/{dataset_id}/captions")
def edit_captions(
    dataset_id: str, request: CaptionsEdit, account: DatasetsAccount, session: SessionDep
) -> CaptionsEdited:
    """Edit many captions at once: replace words, put something in front or behind."""
    dataset = service.get(session, account.id, dataset_id)
    return caption_edit.edit_captions(session, dataset, request)


@datasets.get("/{dataset_id}/report")
def get_report(
    dataset_id: str,
    account: DatasetsAccount,
    session: SessionDep,
    preset: Annotated[Task | None, Query(description="Without it, the dataset's task")] = None,
    base_model: Annotated[
        str | None, Query(description="Catalog id; without it, the default", max_length=64)
    ] = None,
) -> DatasetReport:
    """What a trainer should know before paying for a GPU; measured when the pictures came."""
    dataset = service.get(session, account.id, dataset_id)
    return report(session, dataset, offered_base_model(base_model), preset)


@datasets.post(
    "/{dataset_id}/images",
    status_code=201,
    openapi_extra=form_body(
        "files", "Pictures, .txt captions, dataset.toml, zip or tar archives of these", many=True
    ),
)
async def upload_images(
    dataset_id: str, request: Request, account_id: BriefDatasetsAccountId, store: StoreDep
) -> UploadRead:
    """Add pictures and captions; the answer tells of every file what became of it."""
    settings = get_settings()
    rules = FormRules(
        file_field="files",
        max_files=(settings.max_upload_files, "LORAWRIGHT_MAX_UPLOAD_FILES"),
        max_file_bytes=lambda name: (staging.most_bytes(name, settings), ""),
        drop_large=True,
    )

    def check_dataset() -> None:
        with transaction() as session:
            service.get(session, account_id, dataset_id)

    def keep(form: Form, folder: Path) -> UploadRead:
        files = [StagedFile(file.filename, file.path, file.size) for file in form.files]
        intake = take_in(files, folder, settings)
        added = keep_intake(store, account_id, dataset_id, intake)
        with transaction() as session:
            dataset = service.get(session, account_id, dataset_id)
            return _read_upload(session, store, dataset, added)

    await run_in_threadpool(check_dataset)
    async with staging_folder() as folder:
        form = await receive_form(request, folder, rules)
        return await run_in_threadpool(keep, form, folder)


@datasets.get("/{dataset_id}/images")
def list_images(
    dataset_id: str,
    account: DatasetsAccount,
    session: SessionDep,
    store: StoreDep,
    limit: PageLimit = 20,
    after: PageAfter = None,
) -> Page[ImageRead]:
    """The dataset's images, newest first."""
    service.get(session, account.id, dataset_id)
    rows = service.list_images(session, dataset_id, limit=limit + 1, after=after)
    return page_of(rows, limit, lambda row: _read_image(store, row))


@datasets.get("/{dataset_id}/images/{image_id}")
def get_image(
    dataset_id: str,
    image_id: str,
    account: DatasetsAccount,
    session: SessionDep,
    store: StoreDep,
) -> ImageRead:
    """One image."""
    dataset = service.get(session, account.id, dataset_id)
    return _read_image(store, service.get_image(session, dataset, image_id))


@datasets.delete("/{dataset_id}/images/{image_id}", status_code=204)
def delete_image(
    dataset_id: str, image_id: str, account: DatasetsAccount, session: SessionDep
) -> Response:
    """Delete an image."""
    dataset = service.get(session, account.id, dataset_id)
    image = service.get_image(session, dataset, image_id)
    deletion.delete_image(session, dataset, image)
    return Response(status_code=204)


@datasets.patch("/{dataset_id}/images/{image_id}")
def edit_image(
    dataset_id: str,
    image_id: str,
    patch: ImagePatch,
    account: DatasetsAccount,
    session: SessionDep,
    store: StoreDep,
    if_match: IfMatch = None,
) -> ImageRead:
    """Edit a caption by hand, set repeats, or leave an image out."""
    dataset = service.get(session, account.id, dataset_id)
    if if_match is not None:
        image = service.get_image(session, dataset, image_id)
        session.refresh(image, with_for_update=True)
        check_match(if_match, _read_image(store, image))
    return _read_image(store, service.edit_image(session, dataset, image_id, patch))


@datasets.post("/{dataset_id}/captionings", status_code=201)
def caption_dataset(
    dataset_id: str,
    request: CaptioningCreate,
    account: DatasetsAccount,
    session: SessionDep,
    request_id: RequestId,
) -> CaptioningRead:
    """Start captioning; hand-edited captions are kept unless `overwrite` is `all`."""
    dataset = service.get(session, account.id, dataset_id, for_job=True)
    captioning = service.submit_captioning(session, dataset, request, request_id)
    return _read_captioning(session, jobs.get(session, account.id, captioning.id))


@captionings.get("/{job_id}")
def get_captioning(job_id: str, account: DatasetsAccount, session: SessionDep) -> CaptioningRead:
    """One captioning."""
    return _read_captioning(session, jobs.get(session, account.id, job_id, "captioning"))


def _read_upload(
    session: Session, store: ObjectStore, dataset: Dataset, added: Added
) -> UploadRead:
    data = outcomes_read(added)
    accepted = sum(item.status == "accepted" for item in data)
    return UploadRead(
        data=data,
        accepted=accepted,
        rejected=len(data) - accepted,
        dataset=_read(session, store, dataset),
        ingest=added.ingest_id,
    )


def _read(
    session: Session, store: ObjectStore, dataset: Dataset, found: DatasetReport | None = None
) -> DatasetRead:
    counts = service.counts(session, dataset.id)
    cover = service.cover(session, dataset.id)
    return DatasetRead(
        **_columns(dataset, "id", "name", "task", "trigger_word", "caption_template", "created_at"),
        status=service.status(session, dataset.id, counts.images),
        image_count=counts.images,
        excluded_count=counts.excluded,
        captioned_count=counts.captioned,
        cover_url=store.presign_get(cover.thumbnail_key or cover.object_key) if cover else None,
        report=found,
    )


def _read_whole(session: Session, store: ObjectStore, dataset: Dataset) -> DatasetRead:
    """With its report, as it is told of one dataset alone."""
    found = report(session, dataset, offered_base_model(None))
    return _read(session, store, dataset, found)


def _read_image(store: ObjectStore, image: Image) -> ImageRead:
    shown = [name for name in ImageRead.model_fields if hasattr(Image, name)]
    return ImageRead(
        **_columns(image, *shown),
        url=store.presign_get(image.object_key),
        thumbnail_url=store.presign_get(image.thumbnail_key) if image.thumbnail_key else None,
    )


def _read_captioning(session: Session, job: Job) -> CaptioningRead:
    detail = session.get_one(Captioning, job.id)
    return CaptioningRead(
        **job_fields(session, job),
        dataset=detail.dataset_id,
        **_columns(detail, "captioner", "overwrite", "images_captioned"),
    )


def _columns(row: Base, *names: str) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


add_job_routes(captionings, "captioning", "datasets", CaptioningRead, _read_captioning)
