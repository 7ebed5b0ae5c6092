"""Archives that clients send straight to storage, in parts: begun, resumed, completed, given up.

The API hands out addresses and never sees the bytes. Nothing of an archive is believed until the
worker has unpacked it: its ingest job tells how that went.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.accounts import quotas
from app.database import new_id, utc_now
from app.datasets import service
from app.datasets.intake.staging import ARCHIVE_SUFFIXES
from app.datasets.models import Ingest, Upload
from app.datasets.upload_schemas import PartRead, PartSent, UploadCreate, UploadStatus
from app.errors import Conflict, FieldProblem, Invalid, NotFound, TooLarge, UploadIncomplete
from app.jobs import service as jobs
from app.jobs.models import TERMINAL, Job
from app.retention import service as retention
from app.settings import get_settings
from app.storage import ObjectStore, StoredPart

MIB = 1024 * 1024
# S3's own limits are 5 MiB (but for the last part), 5 GiB and 10,000 parts.
SMALLEST_PART_BYTES = 8 * MIB
MOST_PARTS = 500
CONTENT_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class Found:
    """An upload, its ingest job once there is one, and the parts that storage has."""

    upload: Upload
    job: Job | None
    arrived: list[StoredPart]

    @property
    def status(self) -> UploadStatus:
        """The upload's own stage until it was received, then what became of its job."""
        if self.job is None:
            return "unpacking" if self.upload.stage == "received" else self.upload.stage
        if self.job.status == "succeeded":
            return "kept"
        return "refused" if self.job.status in TERMINAL else "unpacking"


def begin(
    session: Session, store: ObjectStore, account_id: str, dataset_id: str, request: UploadCreate
) -> Upload:
    """Begin an archive of a told size.

    Raises:
        NotFound: no such dataset in this account.
        Invalid: the name is no archive's.
        TooLarge: it is over LORAWRIGHT_MAX_ARCHIVE_BYTES.
        QuotaExceeded: with the archives that are under way it is more than the account may store.
        StorageUnavailable: storage is away; nothing is begun.
    """
    service.get(session, account_id, dataset_id)
    settings = get_settings()
    name = request.filename.replace("\\", "/").rsplit("/", 1)[-1]
    if not name.lower().endswith(ARCHIVE_SUFFIXES):
        detail = f"{name[:60]!r} is no archive; its name must end in {', '.join(ARCHIVE_SUFFIXES)}"
        raise Invalid(detail, [FieldProblem("/filename", detail)])
    if request.size > settings.max_archive_bytes:
        raise TooLarge(
            f"The archive has {request.size} bytes; the limit (LORAWRIGHT_MAX_ARCHIVE_BYTES) is "
            f"{settings.max_archive_bytes}"
        )
    under_way = session.scalar(
        select(func.coalesce(func.sum(Upload.bytes), 0)).where(
            Upload.account_id == account_id, Upload.object_gone.is_(False)
        )
    )
    quotas.check(session, account_id, stored_bytes=int(under_way or 0) + request.size)
    upload_id = new_id("up")
    key = f"accounts/{account_id}/uploads/{upload_id}"
    upload = Upload(
        id=upload_id,
        account_id=account_id,
        dataset_id=dataset_id,
        filename=name,
        bytes=request.size,
        sha256=request.sha256,
        part_bytes=part_bytes(request.size),
        object_key=key,
        store_upload_id=store.begin_parts(key, CONTENT_TYPE),
        expires_at=utc_now() + timedelta(seconds=settings.upload_expires_seconds),
    )
    session.add(upload)
    session.flush()
    session.refresh(upload)
    return upload


def part_bytes(size: int) -> int:
    """Bytes of every part but the last: whole MiB, at least 8, and at most 500 parts in all."""
    return max(SMALLEST_PART_BYTES, -(-size // (MOST_PARTS * MIB)) * MIB)


def planned_parts(upload: Upload) -> list[int]:
    """The bytes of each part, in order."""
    whole, rest = divmod(upload.bytes, upload.part_bytes)
    return [upload.part_bytes] * whole + ([rest] if rest else [])


def get(session: Session, account_id: str, dataset_id: str, upload_id: str) -> Upload:
    """An upload of this account, into this dataset.

    Raises:
        NotFound: there is none of that id.
    """
    upload = session.scalar(
        select(Upload).where(
            Upload.id == upload_id,
            Upload.dataset_id == dataset_id,
            Upload.account_id == account_id,
        )
    )
    if upload is None:
        raise NotFound(f"No upload {upload_id} in {dataset_id}")
    return upload


def find(session: Session, account_id: str, dataset_id: str, upload_id: str) -> Found:
    """An upload with its job; what storage has of it is not asked here.

    Raises:
        NotFound: there is none of that id.
    """
    upload = get(session, account_id, dataset_id, upload_id)
    job = session.scalar(
        select(Job).join(Ingest, Ingest.id == Job.id).where(Ingest.upload_id == upload.id)
    )
    return Found(upload, job, [])


def arrived(store: ObjectStore, upload: Upload) -> list[StoredPart]:
    """The parts that storage has; none where the upload is over."""
    if upload.stage != "receiving":
        return []
    try:
        return store.parts(upload.object_key, upload.store_upload_id)
    except NotFound:
        return []


def parts_read(store: ObjectStore, found: Found) -> list[PartRead]:
    """Every planned part: whether it has arrived, and where to send it if not."""
    upload = found.upload
    if upload.stage != "receiving":
        return []
    there = {part.number: part for part in found.arrived}
    parts = []
    for number, size in enumerate(planned_parts(upload), start=1):
        part = there.get(number)
        whole = part is not None and part.size == size
        url = None
        if not whole:
            url = store.presign_part(upload.object_key, upload.store_upload_id, number)
        parts.append(
            PartRead(number=number, size=size, etag=part.etag if part and whole else None, url=url)
        )
    return parts


def check_complete(upload: Upload, there: list[StoredPart], told: list[PartSent] | None) -> None:
    """Make sure that every planned part has arrived, as the client has sent it.

    Raises:
        UploadIncomplete: parts are missing, or have another size than planned.
        Invalid: the client names other parts than storage has.
    """
    planned = dict(enumerate(planned_parts(upload), start=1))
    sizes = {part.number: part.size for part in there}
    problems = [
        FieldProblem(
            f"/parts/{number}",
            f"part {number} has {sizes.get(number, 0)} bytes in storage; {planned.get(number, 0)} "
            "are due",
        )
        for number in sorted(planned.keys() | sizes.keys())
        if sizes.get(number) != planned.get(number)
    ]
    if problems:
        raise UploadIncomplete(
            f"{len(problems)} of {len(planned)} parts have not arrived whole: {problems[0].detail}",
            problems[:100],
        )
    if told is None:
        return
    etags = {part.number: part.etag for part in there}
    wrong = [
        FieldProblem(f"/parts/{place}", f"storage has part {part.number} with another etag")
        for place, part in enumerate(told)
        if etags.get(part.number) != part.etag.strip('"')
    ]
    if wrong or {part.number for part in told} != etags.keys():
        raise Invalid("The parts are not those that storage has", wrong[:100])


def receive(session: Session, upload_id: str, request_id: str) -> bool:
    """Mark an upload as received and queue its ingest; False if it no longer was being received."""
    row = session.execute(
        update(Upload)
        .where(Upload.id == upload_id, Upload.stage == "receiving")
        .values(stage="received")
        .returning(Upload.account_id, Upload.dataset_id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        return False
    job_id = new_id("ing")
    jobs.submit(
        session,
        job_id=job_id,
        kind="ingest",
        queue="ingest",
        account_id=row.account_id,
        request_id=request_id,
    )
    session.add(Ingest(id=job_id, dataset_id=row.dataset_id, upload_id=upload_id))
    session.flush()
    return True


def abort(session: Session, upload: Upload) -> None:
    """Give an upload up; no error when it was already.

    Raises:
        Conflict: it has been received, so it is its job that can be canceled.
    """
    stage = session.scalar(
        update(Upload)
        .where(Upload.id == upload.id, Upload.stage.in_(("receiving", "aborted")))
        .values(stage="aborted", object_gone=True)
        .returning(Upload.stage)
        .execution_options(synchronize_session=False)
    )
    session.refresh(upload)
    if stage is None and upload.stage == "received":
        raise Conflict(f"{upload.id} has been received; cancel its ingest job instead")
    # If it was being completed at this moment, there is an archive by now.
    retention.doom(session, upload.account_id, [upload.object_key])


def expire_uploads(session: Session, store: ObjectStore, limit: int = 100) -> int:
    """Give up uploads that took too long, and doom archives whose job has ended; how many.

    The caller commits. Running it twice at once is harmless.

    Raises:
        StorageUnavailable: storage is away; what was not reached stays for the next time.
    """
    ended = (
        select(Ingest.id)
        .join(Job, Job.id == Ingest.id)
        .where(Ingest.upload_id == Upload.id, Job.status.in_(TERMINAL))
        .exists()
    )
    due = session.scalars(
        select(Upload)
        .where(
            Upload.object_gone.is_(False),
            ((Upload.stage == "receiving") & (Upload.expires_at < func.now()))
            | ((Upload.stage == "received") & ended),
        )
        .order_by(Upload.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for upload in due:
        if upload.stage == "receiving":
            store.abort_parts(upload.object_key, upload.store_upload_id)
            upload.stage = "expired"
        upload.object_gone = True
        retention.doom(session, upload.account_id, [upload.object_key])
    session.flush()
    return len(due)
