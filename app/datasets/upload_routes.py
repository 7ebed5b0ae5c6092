"""Archives that come in parts, over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Body, Response

from app.database import transaction
from app.datasets import uploads
from app.datasets.models import Upload
from app.datasets.schemas import UploadedFile
from app.datasets.upload_schemas import ArchiveUploadRead, UploadComplete, UploadCreate
from app.datasets.uploads import Found
from app.errors import Conflict, NotFound
from app.jobs.schemas import JobErrorRead
from app.storage import ObjectStore
from app.web.dependencies import (
    BriefDatasetsAccountId,
    DatasetsAccount,
    RequestId,
    SessionDep,
    StoreDep,
)
from app.web.once import OnceRoute

router = APIRouter(
    prefix="/v1/datasets/{dataset_id}/uploads", tags=["datasets"], route_class=OnceRoute
)
routers = [router]


@router.post("", status_code=201)
def begin_upload(
    dataset_id: str,
    request: UploadCreate,
    account: DatasetsAccount,
    session: SessionDep,
    store: StoreDep,
) -> ArchiveUploadRead:
    """Begin a large archive: PUT each part to its address, then complete it."""
    upload = uploads.begin(session, store, account.id, dataset_id, request)
    return _read(store, Found(upload, None, []))


@router.get("/{upload_id}")
def get_upload(
    dataset_id: str, upload_id: str, account_id: BriefDatasetsAccountId, store: StoreDep
) -> ArchiveUploadRead:
    """Which parts have arrived, with fresh addresses for the others; later, each file's fate."""
    return _look(store, account_id, dataset_id, upload_id)


@router.post("/{upload_id}/complete")
def complete_upload(
    dataset_id: str,
    upload_id: str,
    account_id: BriefDatasetsAccountId,
    store: StoreDep,
    request_id: RequestId,
    request: Annotated[UploadComplete | None, Body()] = None,
) -> ArchiveUploadRead:
    """Say that every part has been sent, and queue the unpacking. Doing it twice is harmless."""
    with transaction() as session:
        upload = uploads.get(session, account_id, dataset_id, upload_id)
    if upload.stage in ("aborted", "expired"):
        raise Conflict(f"{upload_id} is {upload.stage}; begin another upload")
    if upload.stage == "receiving":
        # Storage may take long over it, so no transaction is open meanwhile.
        _put_together(store, upload, request)
        with transaction() as session:
            uploads.receive(session, upload_id, request_id)
    return _look(store, account_id, dataset_id, upload_id)


@router.delete("/{upload_id}", status_code=204)
def abort_upload(
    dataset_id: str, upload_id: str, account_id: BriefDatasetsAccountId, store: StoreDep
) -> Response:
    """Give an upload up; its parts are removed."""
    with transaction() as session:
        upload = uploads.get(session, account_id, dataset_id, upload_id)
        uploads.abort(session, upload)
    store.abort_parts(upload.object_key, upload.store_upload_id)
    return Response(status_code=204)


def _put_together(store: ObjectStore, upload: Upload, request: UploadComplete | None) -> None:
    try:
        there = store.parts(upload.object_key, upload.store_upload_id)
        uploads.check_complete(upload, there, request.parts if request else None)
        store.complete_parts(upload.object_key, upload.store_upload_id, there)
    except NotFound:
        # A try before this one was cut off after storage had done it.
        if store.size(upload.object_key) != upload.bytes:
            raise Conflict(f"{upload.id} is no longer known to storage; begin another") from None


def _look(
    store: ObjectStore, account_id: str, dataset_id: str, upload_id: str
) -> ArchiveUploadRead:
    with transaction() as session:
        found = uploads.find(session, account_id, dataset_id, upload_id)
    return _read(store, Found(found.upload, found.job, uploads.arrived(store, found.upload)))


def _read(store: ObjectStore, found: Found) -> ArchiveUploadRead:
    upload, job = found.upload, found.job
    files = None
    if upload.report is not None:
        files = [UploadedFile.model_validate(item) for item in upload.report]
    error = None
    if job is not None and job.error_code is not None:
        error = JobErrorRead(
            code=job.error_code,
            message=job.error_message or "",
            retryable=bool(job.error_retryable),
        )
    accepted = None if files is None else sum(file.status == "accepted" for file in files)
    return ArchiveUploadRead(
        id=upload.id,
        dataset=upload.dataset_id,
        filename=upload.filename,
        size=upload.bytes,
        sha256=upload.sha256,
        status=found.status,
        part_size=upload.part_bytes,
        parts=uploads.parts_read(store, found),
        ingest=None if job is None else job.id,
        error=error,
        files=files,
        accepted=accepted,
        rejected=None if files is None or accepted is None else len(files) - accepted,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
    )
