"""Datasets: create, fill, read, edit, caption. Every query names the account it is for."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.catalog import load_catalog
from app.database import new_id
from app.datasets.captions import check_template
from app.datasets.intake.staging import Intake, Outcome, VerifiedImage
from app.datasets.models import Captioning, Dataset, Image, Ingest, Overwrite
from app.datasets.schemas import CaptioningCreate, DatasetCreate, DatasetStatus, ImagePatch
from app.errors import DatasetEmpty, FieldProblem, Invalid, NotFound, TooLarge, UploadRejected
from app.jobs import service as jobs
from app.jobs.models import Job
from app.settings import get_settings
from app.storage import ObjectStore

CONTENT_TYPES = {
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "avif": "image/avif",
}
UPLOAD_THREADS = 8


@dataclass(frozen=True)
class Counts:
    """How many images a dataset has; `captioned` counts those that are not excluded."""

    images: int
    excluded: int
    captioned: int


@dataclass(frozen=True)
class Added:
    """What an upload changed."""

    # For each outcome of the intake, the image it became; None for captions and rejected files.
    image_ids: dict[str, str]
    duplicates: frozenset[str]
    ingest_id: str | None


def create(session: Session, account_id: str, request: DatasetCreate) -> Dataset:
    """A new, empty dataset.

    Raises:
        Invalid: the caption template names an unknown field.
    """
    dataset = Dataset(
        id=new_id("ds"),
        account_id=account_id,
        name=request.name,
        task=request.task,
        trigger_word=request.trigger_word,
        caption_template=check_template(request.caption_template),
    )
    session.add(dataset)
    session.flush()
    return dataset


def get(session: Session, account_id: str, dataset_id: str) -> Dataset:
    """A dataset of this account.

    Raises:
        NotFound: no such dataset in this account.
    """
    dataset = session.scalar(
        select(Dataset).where(Dataset.id == dataset_id, Dataset.account_id == account_id)
    )
    if dataset is None:
        raise NotFound(f"No dataset {dataset_id}")
    return dataset


def list_newest(
    session: Session, account_id: str, *, limit: int, after: str | None
) -> list[Dataset]:
    """Up to `limit` datasets, newest first."""
    query = select(Dataset).where(Dataset.account_id == account_id)
    if after is not None:
        query = query.where(Dataset.id < after)
    return list(session.scalars(query.order_by(Dataset.id.desc()).limit(limit)))


def counts(session: Session, dataset_id: str) -> Counts:
    """How many images there are, excluded, and captioned."""
    used = Image.excluded.is_(False)
    row = session.execute(
        select(
            func.count(),
            func.count().filter(Image.excluded),
            func.count().filter(used, Image.caption.is_not(None)),
        ).where(Image.dataset_id == dataset_id)
    ).one()
    return Counts(*row)


def status(session: Session, dataset_id: str, image_count: int) -> DatasetStatus:
    """`processing` while an ingest job is under way, else by whether there are images."""
    under_way = session.scalar(
        select(Job.id)
        .join(Ingest, Ingest.id == Job.id)
        .where(Ingest.dataset_id == dataset_id, Job.status.in_(("queued", "running")))
        .limit(1)
    )
    if under_way is not None:
        return "processing"
    return "ready" if image_count else "empty"


def cover(session: Session, dataset_id: str) -> Image | None:
    """The first image that is used."""
    return session.scalar(
        select(Image)
        .where(Image.dataset_id == dataset_id, Image.excluded.is_(False))
        .order_by(Image.id)
        .limit(1)
    )


def add_images(session: Session, store: ObjectStore, dataset: Dataset, intake: Intake) -> Added:
    """Keep the verified pictures of an upload: bytes first, then rows, then the ingest job.

    A picture the dataset has already is not stored again; its caption is replaced when the upload
    brought one.

    Raises:
        UploadRejected: not one file was usable; nothing is kept.
        TooLarge: the dataset would have too many images; nothing is kept.
        StorageUnavailable: the bytes could not be stored; no row is written.
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
    with ThreadPoolExecutor(UPLOAD_THREADS) as pool:
        keys = list(pool.map(lambda image: _store(store, dataset.account_id, image), intake.images))
    image_ids: dict[str, str] = {}
    duplicates: set[str] = set()
    for image, key in zip(intake.images, keys, strict=True):
        image_id, is_new = _insert(session, dataset.id, image, key)
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


def list_images(session: Session, dataset_id: str, *, limit: int, after: str | None) -> list[Image]:
    """Up to `limit` images, newest first."""
    query = select(Image).where(Image.dataset_id == dataset_id)
    if after is not None:
        query = query.where(Image.id < after)
    return list(session.scalars(query.order_by(Image.id.desc()).limit(limit)))


def edit_image(session: Session, dataset: Dataset, image_id: str, patch: ImagePatch) -> Image:
    """Change what the patch names. A caption set here is a hand caption from now on.

    Raises:
        NotFound: no such image in this dataset.
        Invalid: the caption is too long.
    """
    image = session.scalar(
        select(Image).where(Image.id == image_id, Image.dataset_id == dataset.id)
    )
    if image is None:
        raise NotFound(f"No image {image_id} in {dataset.id}")
    changes = patch.model_dump(exclude_unset=True)
    if "caption" in changes:
        _check_caption(changes["caption"])
        image.caption_source = "hand" if changes["caption"] is not None else None
    if changes.get("excluded", False) is None:
        raise Invalid("excluded must be true or false", [FieldProblem("/excluded", "not null")])
    for name, value in changes.items():
        setattr(image, name, value)
    session.flush()
    return image


def submit_captioning(
    session: Session, dataset: Dataset, request: CaptioningCreate, request_id: str
) -> Captioning:
    """Queue the captioning of a dataset's images.

    Raises:
        DatasetEmpty: there is no image to caption.
        Invalid: no such captioner.
    """
    if counts(session, dataset.id).images == 0:
        raise DatasetEmpty(f"{dataset.id} has no images to caption")
    settings = get_settings()
    captioner = request.captioner or settings.default_captioner
    catalog = load_catalog(settings.catalog_path)
    if catalog.captioner(captioner) is None:
        names = ", ".join(entry.id for entry in catalog.captioners)
        detail = f"No captioner {captioner!r}; there are {names}"
        raise Invalid(detail, [FieldProblem("/captioner", detail)])
    job_id = new_id("cap")
    jobs.submit(
        session,
        job_id=job_id,
        kind="captioning",
        queue="caption",
        account_id=dataset.account_id,
        labels=request.metadata,
        deadline_at=request.deadline,
        request_id=request_id,
    )
    captioning = Captioning(
        id=job_id, dataset_id=dataset.id, captioner=captioner, overwrite=request.overwrite
    )
    session.add(captioning)
    session.flush()
    return captioning


def may_overwrite(overwrite: Overwrite) -> ColumnElement[bool]:
    """The images whose caption a captioning may write. Hand captions yield only to `all`."""
    if overwrite == "all":
        return Image.id.is_not(None)
    if overwrite == "auto":
        return Image.caption_source.is_(None) | (Image.caption_source == "auto")
    return Image.caption.is_(None)


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


def _check_room(session: Session, dataset_id: str, images: list[VerifiedImage]) -> None:
    # Locks the dataset's row, so that two uploads at once cannot pass the limit together.
    # Jobs that name the dataset may still be inserted meanwhile.
    session.execute(
        select(Dataset.id).where(Dataset.id == dataset_id).with_for_update(key_share=True)
    )
    limit = get_settings().max_images_per_dataset
    total = counts(session, dataset_id).images + len(images)
    if total > limit:
        raise TooLarge(
            f"The dataset would have {total} images; the limit "
            f"(LORAWRIGHT_MAX_IMAGES_PER_DATASET) is {limit}"
        )


def _store(store: ObjectStore, account_id: str, image: VerifiedImage) -> str:
    key = f"accounts/{account_id}/images/{image.sha256}.{image.format}"
    store.put_file(key, Path(image.file.path), CONTENT_TYPES[image.format])
    return key


def _insert(session: Session, dataset_id: str, image: VerifiedImage, key: str) -> tuple[str, bool]:
    values: dict[str, Any] = {
        "filename": PurePosixPath(image.file.name).name[-255:],
        "object_key": key,
        "bytes": image.bytes,
        "width": image.width,
        "height": image.height,
        "format": image.format,
        "repeats": image.repeats,
        "caption": image.caption,
        "caption_source": "hand" if image.caption else None,
        "excluded": False,
    }
    inserted = session.scalar(
        insert(Image)
        .values(id=new_id("img"), dataset_id=dataset_id, sha256=image.sha256, **values)
        .on_conflict_do_nothing(index_elements=["dataset_id", "sha256"])
        .returning(Image.id)
    )
    if inserted is not None:
        return inserted, True
    same = (Image.dataset_id == dataset_id) & (Image.sha256 == image.sha256)
    if image.caption:
        session.execute(
            update(Image).where(same).values(caption=image.caption, caption_source="hand")
        )
    return session.scalars(select(Image.id).where(same)).one(), False


def _check_caption(caption: str | None) -> None:
    limit = get_settings().max_caption_chars
    if caption is not None and len(caption) > limit:
        detail = (
            f"The caption has {len(caption)} characters; the limit "
            f"(LORAWRIGHT_MAX_CAPTION_CHARS) is {limit}"
        )
        raise Invalid(detail, [FieldProblem("/caption", detail)])
