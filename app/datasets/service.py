"""Datasets: create, fill, read, edit, caption. Every query names the account it is for."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from app.accounts import quotas
from app.catalog import load_catalog
from app.database import new_id
from app.datasets.captions import check_template
from app.datasets.models import Captioning, Dataset, Image, Ingest, Overwrite
from app.datasets.schemas import (
    CaptioningCreate,
    DatasetCreate,
    DatasetPatch,
    DatasetStatus,
    ImagePatch,
)
from app.errors import DatasetEmpty, FieldProblem, Invalid, NotFound
from app.jobs import service as jobs
from app.jobs.models import Job
from app.settings import get_settings


@dataclass(frozen=True)
class Counts:
    """How many images a dataset has; `captioned` counts those that are not excluded."""

    images: int
    excluded: int
    captioned: int


def create(session: Session, account_id: str, request: DatasetCreate) -> Dataset:
    """A new, empty dataset.

    Raises:
        Invalid: the caption template names an unknown field.
        QuotaExceeded: the account has as many datasets as it may have.
    """
    quotas.take(session, account_id, datasets=1)
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


def get(session: Session, account_id: str, dataset_id: str, *, for_job: bool = False) -> Dataset:
    """A dataset of this account.

    Args:
        for_job: a job will refer to it, so it is not deleted before the transaction ends.

    Raises:
        NotFound: no such dataset in this account.
    """
    query = select(Dataset).where(Dataset.id == dataset_id, Dataset.account_id == account_id)
    if for_job:
        query = query.with_for_update(read=True, key_share=True)
    dataset = session.scalar(query)
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
    image = get_image(session, dataset, image_id)
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


def edit(session: Session, dataset: Dataset, patch: DatasetPatch) -> Dataset:
    """Change what the patch names.

    Raises:
        Invalid: the caption template names an unknown field, or a value is null.
    """
    changes = patch.model_dump(exclude_unset=True)
    if nulls := [name for name, value in changes.items() if value is None]:
        problems = [FieldProblem(f"/{name}", "not null") for name in nulls]
        raise Invalid(f"{', '.join(nulls)} cannot be null", problems)
    if "caption_template" in changes:
        check_template(changes["caption_template"])
    for name, value in changes.items():
        setattr(dataset, name, value)
    session.flush()
    return dataset


def get_image(session: Session, dataset: Dataset, image_id: str) -> Image:
    """An image of a dataset.

    Raises:
        NotFound: no such image in this dataset.
    """
    image = session.scalar(
        select(Image).where(Image.id == image_id, Image.dataset_id == dataset.id)
    )
    if image is None:
        raise NotFound(f"No image {image_id} in {dataset.id}")
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
        webhook_url=request.webhook,
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


def _check_caption(caption: str | None) -> None:
    limit = get_settings().max_caption_chars
    if caption is not None and len(caption) > limit:
        detail = (
            f"The caption has {len(caption)} characters; the limit "
            f"(LORAWRIGHT_MAX_CAPTION_CHARS) is {limit}"
        )
        raise Invalid(detail, [FieldProblem("/caption", detail)])
