"""Trainings: freeze a spec, queue it, and read what came of it."""

import secrets

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog import BaseModelEntry, load_catalog
from app.database import JsonObject, new_id
from app.datasets import service as datasets
from app.datasets.captions import render
from app.datasets.models import Dataset, Image
from app.errors import Conflict, DatasetEmpty, FieldProblem, Invalid, NotFound
from app.jobs import service as jobs
from app.jobs.models import Job
from app.loras.models import Lora
from app.settings import get_settings
from app.trainings.arithmetic import BucketPlan, ImageSize, plan_steps
from app.trainings.models import Checkpoint, Training, TrainingMetric
from app.trainings.params import Task, TrainingParams
from app.trainings.presets import PRESETS, resolve
from app.trainings.schemas import TrainingCreate

DRAWN_SEEDS = 2**32


def submit(session: Session, account_id: str, request: TrainingCreate, request_id: str) -> Training:
    """Freeze everything that makes the LoRA, and queue its training.

    Raises:
        NotFound: no such dataset in this account.
        DatasetEmpty: the dataset has no usable image.
        Invalid: no such base model, or parameters that cannot be.
    """
    dataset = datasets.get(session, account_id, request.dataset)
    base_model = offered_base_model(request.base_model)
    preset = request.preset or dataset.task
    images = _usable_images(session, dataset)
    params = _resolve(preset, base_model, request.params)
    spec = _freeze(dataset, base_model, request, params, images)
    return queue(
        session,
        account_id,
        name=request.name,
        dataset_id=dataset.id,
        preset=preset,
        spec=spec,
        warnings=_warnings(preset, images),
        labels=request.metadata,
        request_id=request_id,
    )


def queue(
    session: Session,
    account_id: str,
    *,
    name: str,
    dataset_id: str | None,
    preset: str,
    spec: JsonObject,
    warnings: list[str],
    labels: dict[str, str],
    request_id: str,
    state: JsonObject | None = None,
    retry_of: str | None = None,
) -> Training:
    """Insert a training job with a frozen spec, from the start or from a saved state."""
    job_id = new_id("trn")
    jobs.submit(
        session,
        job_id=job_id,
        kind="training",
        queue="train",
        account_id=account_id,
        labels=labels,
        request_id=request_id,
    )
    training = Training(
        id=job_id,
        dataset_id=dataset_id,
        name=name,
        base_model=spec["base_model"],
        preset=preset,
        spec=spec,
        warnings=warnings,
        state=state,
        retry_of=retry_of,
    )
    session.add(training)
    session.flush()
    return training


def retry(session: Session, account_id: str, training_id: str, request_id: str) -> Training:
    """Go on from the newest state of a failed or canceled training, as a new job.

    Raises:
        NotFound: no such training in this account.
        Conflict: it has not ended, or it succeeded.
    """
    job = jobs.get(session, account_id, training_id, "training")
    if job.status not in ("failed", "canceled"):
        raise Conflict(f"{training_id} is {job.status}; only a failed or canceled one is retried")
    old = get(session, training_id)
    return queue(
        session,
        account_id,
        name=old.name,
        dataset_id=old.dataset_id,
        preset=old.preset,
        spec=old.spec,
        warnings=old.warnings,
        labels={str(name): str(value) for name, value in job.labels.items()},
        request_id=request_id,
        state=old.state,
        retry_of=old.id,
    )


def get(session: Session, training_id: str) -> Training:
    """The detail row of a training whose job was found for its account."""
    return session.get_one(Training, training_id)


def published_lora(session: Session, training_id: str) -> str | None:
    """The LoRA that the training itself published, by id."""
    return session.scalar(
        select(Lora.id)
        .join(Checkpoint, Checkpoint.id == Lora.checkpoint_id)
        .where(Lora.training_id == training_id, Checkpoint.recommended)
        .order_by(Lora.created_at)
        .limit(1)
    )


def metrics(session: Session, training_id: str, *, after: int, limit: int) -> list[TrainingMetric]:
    """Up to `limit` steps that follow step `after`."""
    return list(
        session.scalars(
            select(TrainingMetric)
            .where(TrainingMetric.training_id == training_id, TrainingMetric.step > after)
            .order_by(TrainingMetric.step)
            .limit(limit)
        )
    )


def checkpoints(session: Session, training_id: str) -> list[Checkpoint]:
    """A training's checkpoints, by step."""
    return list(
        session.scalars(
            select(Checkpoint)
            .where(Checkpoint.training_id == training_id)
            .order_by(Checkpoint.step)
        )
    )


def checkpoint(session: Session, training_id: str, checkpoint_id: str) -> Checkpoint:
    """One checkpoint of a training.

    Raises:
        NotFound: the training has no such checkpoint.
    """
    found = session.scalar(
        select(Checkpoint).where(
            Checkpoint.id == checkpoint_id, Checkpoint.training_id == training_id
        )
    )
    if found is None:
        raise NotFound(f"No checkpoint {checkpoint_id} in {training_id}")
    return found


def offered_base_model(entry_id: str | None) -> BaseModelEntry:
    """The catalog's entry of that id, or of the default.

    Raises:
        Invalid: no such base model.
    """
    settings = get_settings()
    catalog = load_catalog(settings.catalog_path)
    wanted = entry_id or settings.default_base_model
    entry = catalog.base_model(wanted)
    if entry is None:
        names = ", ".join(known.id for known in catalog.base_models)
        detail = f"no base model {wanted!r}; there are {names}"
        raise Invalid(detail, [FieldProblem("/base_model", detail)])
    return entry


def _usable_images(session: Session, dataset: Dataset) -> list[Image]:
    images = list(
        session.scalars(
            select(Image)
            .where(Image.dataset_id == dataset.id, Image.excluded.is_(False))
            .order_by(Image.id)
        )
    )
    if not images:
        raise DatasetEmpty(f"{dataset.id} has no images to train on; upload some first")
    return images


def _resolve(preset: Task, base_model: BaseModelEntry, asked: TrainingParams) -> TrainingParams:
    try:
        return resolve(preset, base_model, asked, secrets.randbelow(DRAWN_SEEDS))
    except ValidationError as error:
        problems = [
            FieldProblem("/".join(("/params", *map(str, item["loc"]))), item["msg"])
            for item in error.errors()
        ]
        raise Invalid("; ".join(p.detail for p in problems), problems) from error


def _freeze(
    dataset: Dataset,
    base_model: BaseModelEntry,
    request: TrainingCreate,
    params: TrainingParams,
    images: list[Image],
) -> JsonObject:
    """What made this LoRA. A caption that is missing is the template around nothing."""
    try:
        buckets = BucketPlan.for_base(params, base_model.vae_scale_factor)
    except ValueError as error:
        raise Invalid(str(error), [FieldProblem("/params/resolution", str(error))]) from error
    plan = plan_steps(
        [ImageSize(row.width, row.height, row.repeats, row.sha256) for row in images],
        params,
        buckets,
    )
    limit = get_settings().max_training_steps
    if plan.total_steps > limit:
        raise Invalid(
            f"The training would take {plan.total_steps} steps; the limit "
            f"(LORAWRIGHT_MAX_TRAINING_STEPS) is {limit}",
            [FieldProblem("/params/epochs", f"at most {limit} steps in all")],
        )
    empty = render(
        dataset.caption_template, task=dataset.task, trigger_word=dataset.trigger_word, caption=""
    )
    return {
        "format": "lorawright.training/1",
        "name": request.name,
        "trigger_word": dataset.trigger_word,
        "task": dataset.task,
        "params": params.model_dump(),
        "base_model": base_model.id,
        "images": [
            {
                "image": image.id,
                "sha256": image.sha256,
                "object_key": image.object_key,
                "format": image.format,
                "width": image.width,
                "height": image.height,
                "caption": image.caption or empty,
                "repeats": image.repeats,
            }
            for image in images
        ],
        "sample_prompts": request.sample_prompts,
        "total_steps": plan.total_steps,
    }


def _warnings(preset: Task, images: list[Image]) -> list[str]:
    made_for = PRESETS[preset]
    found = []
    if len(images) < made_for.images_from:
        found.append(
            f"{len(images)} images; {made_for.title} works best with {made_for.images_from} or more"
        )
    if made_for.images_to is not None and len(images) > made_for.images_to:
        found.append(
            f"{len(images)} images; {made_for.title} is tuned for at most {made_for.images_to}"
        )
    silent = sum(image.caption is None for image in images)
    if silent:
        found.append(f"{silent} images have no caption and train on the trigger word alone")
    return found


def job_of(session: Session, account_id: str, training_id: str) -> Job:
    """The job of a training of this account.

    Raises:
        NotFound: no such training in this account.
    """
    return jobs.get(session, account_id, training_id, "training")
