"""Ingest: unpack an archive that came straight to storage, or measure what the API has unpacked."""

import hashlib
from pathlib import Path

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.accounts import quotas
from app.database import transaction
from app.datasets.intake.staging import Intake, StagedFile
from app.datasets.intake.verify import take_in
from app.datasets.keeping import (
    Measured,
    add_images,
    check_usable,
    outcomes_read,
    refused_read,
    store_images,
)
from app.datasets.models import Dataset, Image, Ingest, Upload
from app.errors import ArchiveDamaged, RequestError
from app.jobs import lifecycle
from app.retention import service as retention
from app.settings import get_settings
from app.storage import ObjectStore, get_store
from worker.handlers.context import JobContext, Publish
from worker.ingest.measure import measure, thumbnail


def run(context: JobContext) -> Publish:
    """Do what the job's row says; both ways end with pictures that are measured."""
    with transaction() as session:
        detail = session.get_one(Ingest, context.claim.job_id)
        upload = None if detail.upload_id is None else session.get_one(Upload, detail.upload_id)
    if upload is not None:
        return _unpack(context, upload)
    return _measure_new(context, detail.dataset_id)


def _measure_new(context: JobContext, dataset_id: str) -> Publish:
    """Do every image that was not measured yet, whichever upload brought it."""
    store = get_store()
    with transaction() as session:
        images = session.execute(
            select(Image.id, Image.object_key, Image.sha256)
            .where(Image.dataset_id == dataset_id, Image.measured_at.is_(None))
            .order_by(Image.id)
        ).all()
    found: list[tuple[str, Measured]] = []
    thumbnails: dict[str, bytes] = {}
    for number, image in enumerate(images):
        context.check()
        path = context.folder / "image"
        store.get_file(image.object_key, path)
        found.append((image.id, _look(context, store, path, image.sha256, thumbnails)))
        _tell(context, "measure", number + 1, len(images))

    def publish(session: Session) -> None:
        retention.hold(session, context.claim.account_id)
        _store_thumbnails(store, thumbnails)
        for image_id, known in found:
            session.execute(
                update(Image)
                .where(Image.id == image_id)
                .values(
                    thumbnail_key=known.thumbnail_key,
                    measures=known.measures,
                    measured_at=func.now(),
                )
            )

    return publish


def _unpack(context: JobContext, upload: Upload) -> Publish:
    """Check an archive against what was told of it, verify its pictures, and keep them.

    Raises:
        ArchiveDamaged: it is not the archive that was told.
        ArchiveUnsafe: it is hostile; nothing is kept.
    """
    store = get_store()
    account_id = context.claim.account_id
    path = context.folder / "archive"
    _fetch(context, store, upload, path)
    members = context.folder / "members"
    members.mkdir()
    context.progress(0.3, stage="unpack")
    intake = take_in([StagedFile(upload.filename, path)], members, get_settings(), context.check)
    path.unlink()
    _check_usable(context, upload, intake)
    store_images(store, account_id, intake.images, context.check)
    measured: dict[str, Measured] = {}
    thumbnails: dict[str, bytes] = {}
    for number, image in enumerate(intake.images):
        context.check()
        measured[image.sha256] = _look(context, store, image.file.path, image.sha256, thumbnails)
        _tell(context, "measure", number + 1, len(intake.images), begins_at=0.4)

    def publish(session: Session) -> None:
        retention.hold(session, account_id)
        # What was there before this attempt may have been removed meanwhile.
        store_images(store, account_id, intake.images)
        _store_thumbnails(store, thumbnails)
        dataset = session.get_one(Dataset, upload.dataset_id)
        added = add_images(session, dataset, intake, measured)
        report = [item.model_dump() for item in outcomes_read(added)]
        session.execute(
            update(Upload)
            .where(Upload.id == upload.id)
            .values(report=report, object_gone=True)
            .execution_options(synchronize_session=False)
        )
        retention.doom(session, account_id, [upload.object_key])

    return publish


def _fetch(context: JobContext, store: ObjectStore, upload: Upload, path: Path) -> None:
    """Download an archive, hashing it on the way."""
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as file:
        for chunk in store.chunks(upload.object_key):
            context.check()
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
            context.progress(0.3 * min(1.0, size / upload.bytes), stage="fetch")
    if size != upload.bytes:
        raise ArchiveDamaged(f"{upload.filename} has {size} bytes; {upload.bytes} were told")
    if upload.sha256 is not None and digest.hexdigest() != upload.sha256:
        raise ArchiveDamaged(
            f"{upload.filename} has the SHA-256 {digest.hexdigest()}; {upload.sha256} was told"
        )


def _look(
    context: JobContext,
    store: ObjectStore,
    path: Path,
    sha256: str,
    thumbnails: dict[str, bytes],
) -> Measured:
    # Stored under the picture's own hash: whoever makes it again makes the same bytes.
    key = f"accounts/{context.claim.account_id}/thumbnails/{sha256}.webp"
    if key not in thumbnails:
        thumbnails[key] = thumbnail(path)
        store.put_bytes(key, thumbnails[key], "image/webp")
    return Measured(measure(path), key)


def _store_thumbnails(store: ObjectStore, thumbnails: dict[str, bytes]) -> None:
    """Those that were removed since, now that none is."""
    for key, data in thumbnails.items():
        if not store.exists(key):
            store.put_bytes(key, data, "image/webp")


def _check_usable(context: JobContext, upload: Upload, intake: Intake) -> None:
    """Learn early that nothing would be kept, and tell of each file why."""
    refusal: RequestError | None = None
    with transaction() as session:
        lifecycle.hold(session, context.claim)
        try:
            size = sum(image.bytes for image in intake.images)
            quotas.check(session, context.claim.account_id, stored_bytes=size)
            check_usable(session, session.get_one(Dataset, upload.dataset_id), intake)
        except RequestError as error:
            refusal = error
            session.execute(
                update(Upload)
                .where(Upload.id == upload.id)
                .values(report=[item.model_dump() for item in refused_read(intake, error)])
                .execution_options(synchronize_session=False)
            )
    if refusal is not None:
        raise refusal


def _tell(
    context: JobContext, stage: str, step: int, total: int, *, begins_at: float = 0.0
) -> None:
    fraction = begins_at + (1 - begins_at) * step / total
    context.progress(fraction, stage=stage, step=step, total_steps=total)
