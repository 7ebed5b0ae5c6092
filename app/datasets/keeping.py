"""What was verified becomes images: bytes into storage first, then rows, then the ingest job.

Used by the API for uploads and by the worker for archives that came straight to storage. Bytes are
stored before the transaction that writes the rows, and never twice: a picture lies under its hash.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import PurePosixPath
from threading import BoundedSemaphore
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.accounts import quotas
from app.database import JsonObject, new_id, transaction
from app.datasets import service
from app.datasets.intake.staging import CAPTION_SUFFIX, Intake, Outcome, VerifiedImage
from app.datasets.models import Dataset, Image, Ingest
from app.datasets.schemas import UploadedFile
from app.errors import FieldProblem, LorawrightError, TooLarge, UploadRejected
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
class Measured:
    """What the worker found out about a picture while it was at hand."""

    measures: JsonObject
    thumbnail_key: str


@dataclass(frozen=True)
class Added:
    """What an upload changed."""

    outcomes: tuple[Outcome, ...]
    # The image that each accepted picture became, or was already.
    image_ids: dict[str, str]
    duplicates: frozenset[str]
    # The job that measures the new ones; None where there are none, or they are measured already.
    ingest_id: str | None = None


def keep_intake(store: ObjectStore, account_id: str, dataset_id: str, intake: Intake) -> Added:
    """Keep the verified pictures of an upload, in transactions of their own.

    A picture that the dataset has already is not kept twice; its caption is replaced when the
    upload brought one.

    Raises:
        NotFound: the dataset is gone.
        UploadRejected: not one file was usable; nothing is kept.
        TooLarge: the dataset would have too many images; nothing is kept.
        StorageUnavailable: the bytes could not be stored; no row is written.
    """
    with transaction() as session:
        quotas.check(session, account_id, stored_bytes=sum(image.bytes for image in intake.images))
        check_usable(session, service.get(session, account_id, dataset_id), intake)
    store_images(store, account_id, intake.images)
    with _keepers(), transaction() as session:
        dataset = service.get(session, account_id, dataset_id)
        retention.hold(session, account_id)
        # One that was there before may have been removed meanwhile; from now on none is.
        store_images(store, account_id, intake.images)
        added = add_images(session, dataset, intake)
        if len(added.duplicates) < len(intake.images):
            added = replace(added, ingest_id=queue_ingest(session, dataset))
        return added


@cache
def _keepers() -> BoundedSemaphore:
    """Uploads that end together wait for each other, not for a connection until it is too late.

    Most connections are for requests that are quick.
    """
    return BoundedSemaphore(max(1, get_settings().database_pool_size // 10))


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


def add_images(
    session: Session,
    dataset: Dataset,
    intake: Intake,
    measured: Mapping[str, Measured] | None = None,
) -> Added:
    """Write the rows of pictures that are stored.

    Args:
        measured: what is known of each picture, by its SHA-256; without it they are measured later.

    Raises:
        UploadRejected: not one file was usable; nothing is kept.
        TooLarge: the dataset would have too many images; nothing is kept.
    """
    check_usable(session, dataset, intake)
    outcomes = list(intake.outcomes)
    for stem, caption in intake.loose_captions.items():
        rows = _named(session, dataset.id, stem)
        for row in rows:
            row.caption, row.caption_source = caption, "hand"
        outcomes.append(Outcome(stem + CAPTION_SUFFIX, "accepted") if rows else _loose(stem))
    image_ids: dict[str, str] = {}
    duplicates: set[str] = set()
    for image in intake.images:
        known = None if measured is None else measured[image.sha256]
        image_id, is_new = _insert(session, dataset, image, known)
        image_ids[image.file.name] = image_id
        if not is_new:
            duplicates.add(image.file.name)
    return Added(tuple(outcomes), image_ids, frozenset(duplicates))


def check_usable(session: Session, dataset: Dataset, intake: Intake) -> None:
    """Whether anything of an upload would be kept; nothing is written.

    The dataset's row is locked until the transaction ends.

    Raises:
        UploadRejected: not one file is usable.
        TooLarge: the dataset would have too many images.
    """
    _check_room(session, dataset, intake.images)
    if intake.images or any(_named(session, dataset.id, stem) for stem in intake.loose_captions):
        return
    refused = [*intake.outcomes, *map(_loose, intake.loose_captions)]
    raise UploadRejected(
        "Not one file of the upload was usable",
        [
            FieldProblem(f"/files/{o.filename}", o.reason or "", o.code or "invalid")
            for o in refused
        ],
    )


def queue_ingest(session: Session, dataset: Dataset) -> str:
    """Have new pictures measured; the job's id."""
    job_id = new_id("ing")
    jobs.submit(
        session, job_id=job_id, kind="ingest", queue="ingest", account_id=dataset.account_id
    )
    session.add(Ingest(id=job_id, dataset_id=dataset.id))
    session.flush()
    return job_id


def image_key(account_id: str, image: VerifiedImage) -> str:
    """Where an account's picture lies: once, under its hash."""
    return f"accounts/{account_id}/images/{image.sha256}.{image.format}"


def outcomes_read(added: Added) -> list[UploadedFile]:
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
        for outcome in added.outcomes
    ]


def refused_read(intake: Intake, error: LorawrightError) -> list[UploadedFile]:
    """The same of an upload of which nothing was kept."""
    return [
        UploadedFile(
            filename=outcome.filename,
            status="rejected",
            code=outcome.code or error.code,
            reason=outcome.reason or error.detail,
        )
        for outcome in (*intake.outcomes, *map(_loose, intake.loose_captions))
    ]


def _loose(stem: str) -> Outcome:
    name = stem + CAPTION_SUFFIX
    return Outcome(name, "rejected", "caption_without_image", f"no picture is named {stem}")


def _named(session: Session, dataset_id: str, stem: str) -> list[Image]:
    """The dataset's images whose file had this name, whatever its suffix."""
    rows = session.scalars(
        select(Image).where(
            Image.dataset_id == dataset_id, Image.filename.startswith(stem + ".", autoescape=True)
        )
    )
    return [row for row in rows if PurePosixPath(row.filename).stem == stem]


def _check_room(session: Session, dataset: Dataset, images: Sequence[VerifiedImage]) -> None:
    # Locks the dataset's row, so that two uploads at once cannot pass the limit together.
    # Jobs that name the dataset may still be inserted meanwhile.
    session.execute(
        select(Dataset.id).where(Dataset.id == dataset.id).with_for_update(key_share=True)
    )
    hashes = {image.sha256 for image in images}
    there = session.scalars(
        select(Image.sha256).where(Image.dataset_id == dataset.id, Image.sha256.in_(hashes))
    ).all()
    limit = quotas.images_per_dataset(session, dataset.account_id)
    total = service.counts(session, dataset.id).images + len(hashes) - len(there)
    if limit is not None and total > limit:
        raise TooLarge(
            f"The dataset would have {total} images; the limit (by default "
            f"LORAWRIGHT_MAX_IMAGES_PER_DATASET) is {limit:g}"
        )


def _insert(
    session: Session, dataset: Dataset, image: VerifiedImage, known: Measured | None
) -> tuple[str, bool]:
    values: dict[str, Any] = {}
    if known is not None:
        values = {
            "measures": known.measures,
            "thumbnail_key": known.thumbnail_key,
            "measured_at": func.now(),
        }
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
            **values,
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
