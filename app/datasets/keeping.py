"""What was verified becomes images: bytes into storage first, then rows, then the ingest job.

Used by the API for uploads and by the worker for archives that came straight to storage. Bytes are
stored before the transaction that writes the rows, and never twice: a picture lies under its hash.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.database import new_id, transaction
from app.datasets import service
from app.datasets.intake.staging import Intake, Outcome, VerifiedImage
from app.datasets.models import Dataset, Image, Ingest
from app.datasets.schemas import UploadedFile
from app.errors import FieldProblem, TooLarge, UploadRejected
from app.jobs import service as jobs
from app.retention import service as retention
from app.settings import get_settings
from app.storage import ObjectStore

CONTENT_TYPES = {
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "avif": "image/avif",
}
STORING_THREADS = 8


@dataclass(frozen=True)
class Added:
    """What an upload changed."""

    # The image that each accepted picture became, or was already.
    image_ids: dict[str, str]
    duplicates: frozenset[str]
    ingest_id: str | None


def keep_intake(
    store: ObjectStore,
    account_id: str,
    dataset_id: str,
    intake: Intake,
    check: Callable[[], None] = lambda: None,
) -> Added:
    """Keep the verified pictures of an upload, in transactions of their own.

    A picture that the dataset has already is not kept twice; its caption is replaced when the
    upload brought one.

    Args:
        check: called before each picture is stored; raises to stop.

    Raises:
        NotFound: the dataset is gone.
        UploadRejected: not one file was usable; nothing is kept.
        TooLarge: the dataset would have too many images; nothing is kept.
        StorageUnavailable: the bytes could not be stored; no row is written.
    """
    with transaction() as session:
        service.get(session, account_id, dataset_id)
        _check_room(session, dataset_id, intake.images)
    store_images(store, account_id, intake.images, check)
    with transaction() as session:
        dataset = service.get(session, account_id, dataset_id)
        retention.hold(session, account_id)
        # One that was there before may have been removed meanwhile; from now on none is.
        gone = [image for image in intake.images if not store.exists(image_key(account_id, image))]
        store_images(store, account_id, gone, check)
        return add_images(session, dataset, intake)


def store_images(
    store: ObjectStore,
    account_id: str,
    images: Sequence[VerifiedImage],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Store pictures under their hashes, several at a time."""

    def put(image: VerifiedImage) -> None:
        check()
        key = image_key(account_id, image)
        if not store.exists(key):
            store.put_file(key, image.file.path, CONTENT_TYPES[image.format])

    with ThreadPoolExecutor(STORING_THREADS) as pool:
        # The first failure ends the rest: what waits is not begun.
        try:
            for _ in pool.map(put, images):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def add_images(session: Session, dataset: Dataset, intake: Intake) -> Added:
    """Write the rows of pictures that are stored, and queue what measures the new ones.

    Raises:
        UploadRejected: not one file was usable; nothing is kept.
        TooLarge: the dataset would have too many images; nothing is kept.
    """
    applied = _apply_loose_captions(session, dataset.id, intake)
    if not intake.images and not applied:
        raise UploadRejected(
            "Not one file of the upload was usable",
            [
                FieldProblem(f"/files/{o.filename}", o.reason or "", o.code or "invalid")
                for o in intake.outcomes
            ],
        )
    _check_room(session, dataset.id, intake.images)
    image_ids: dict[str, str] = {}
    duplicates: set[str] = set()
    for image in intake.images:
        image_id, is_new = _insert(session, dataset, image)
        image_ids[image.file.name] = image_id
        if not is_new:
            duplicates.add(image.file.name)
    ingest_id = None
    if len(duplicates) < len(intake.images):
        ingest_id = new_id("ing")
        jobs.submit(
            session, job_id=ingest_id, kind="ingest", queue="ingest", account_id=dataset.account_id
        )
        session.add(Ingest(id=ingest_id, dataset_id=dataset.id))
        session.flush()
    return Added(image_ids, frozenset(duplicates), ingest_id)


def image_key(account_id: str, image: VerifiedImage) -> str:
    """Where an account's picture lies: once, under its hash."""
    return f"accounts/{account_id}/images/{image.sha256}.{image.format}"


def outcomes_read(intake: Intake, added: Added) -> list[UploadedFile]:
    """What became of each file, as the answer lists it."""
    return [
        UploadedFile(
            filename=outcome.filename,
            status=outcome.status,
            code=outcome.code,
            reason=outcome.reason,
            not_honoured=list(outcome.not_honoured),
            image=added.image_ids.get(outcome.filename),
            duplicate=outcome.filename in added.duplicates,
        )
        for outcome in intake.outcomes
    ]


def _apply_loose_captions(session: Session, dataset_id: str, intake: Intake) -> int:
    """Give captions uploaded without their picture to pictures that came before."""
    applied = 0
    for stem, caption in intake.loose_captions.items():
        rows = session.scalars(
            select(Image).where(
                Image.dataset_id == dataset_id,
                Image.filename.startswith(stem + ".", autoescape=True),
            )
        ).all()
        rows = [row for row in rows if PurePosixPath(row.filename).stem == stem]
        for row in rows:
            row.caption, row.caption_source = caption, "hand"
        if rows:
            intake.outcomes.append(Outcome(stem + ".txt", "accepted"))
            applied += 1
        else:
            intake.reject(stem + ".txt", "caption_without_image", f"no picture is named {stem}")
    return applied


def _check_room(session: Session, dataset_id: str, images: Sequence[VerifiedImage]) -> None:
    # Locks the dataset's row, so that two uploads at once cannot pass the limit together.
    # Jobs that name the dataset may still be inserted meanwhile.
    session.execute(
        select(Dataset.id).where(Dataset.id == dataset_id).with_for_update(key_share=True)
    )
    hashes = {image.sha256 for image in images}
    there = session.scalars(
        select(Image.sha256).where(Image.dataset_id == dataset_id, Image.sha256.in_(hashes))
    ).all()
    limit = get_settings().max_images_per_dataset
    total = service.counts(session, dataset_id).images + len(hashes) - len(there)
    if total > limit:
        raise TooLarge(
            f"The dataset would have {total} images; the limit "
            f"(LORAWRIGHT_MAX_IMAGES_PER_DATASET) is {limit}"
        )


def _insert(session: Session, dataset: Dataset, image: VerifiedImage) -> tuple[str, bool]:
    inserted = session.scalar(
        insert(Image)
        .values(
            id=new_id("img"),
            dataset_id=dataset.id,
            sha256=image.sha256,
            filename=PurePosixPath(image.file.name).name[-255:],
            object_key=image_key(dataset.account_id, image),
            bytes=image.bytes,
            width=image.width,
            height=image.height,
            format=image.format,
            repeats=image.repeats,
            caption=image.caption,
            caption_source="hand" if image.caption else None,
            excluded=False,
        )
        .on_conflict_do_nothing(index_elements=["dataset_id", "sha256"])
        .returning(Image.id)
    )
    if inserted is not None:
        return inserted, True
    same = (Image.dataset_id == dataset.id) & (Image.sha256 == image.sha256)
    if image.caption:
        session.execute(
            update(Image).where(same).values(caption=image.caption, caption_source="hand")
        )
    return session.scalars(select(Image.id).where(same)).one(), False
