"""Trainings: freeze a spec, queue it, and read what came of it."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalog import BaseModelEntry, load_catalog
from app.database import JsonObject, new_id
from app.datasets import service as datasets
from app.errors import Conflict, FieldProblem, Invalid, NotFound
from app.jobs import service as jobs
from app.jobs.forecast import Forecast
from app.jobs.models import Job
from app.loras.models import Lora
from app.retention import service as retention
from app.settings import get_settings
from app.trainings.forecast import forecast
from app.trainings.freeze import Frozen, freeze
from app.trainings.models import Checkpoint, Training, TrainingMetric
from app.trainings.params import Task
from app.trainings.schemas import TrainingCreate
from app.webhooks import service as webhooks


def submit(session: Session, account_id: str, request: TrainingCreate, request_id: str) -> Training:
    """Freeze everything that makes the LoRA, and queue its training.

    Raises:
        NotFound: no such dataset or LoRA in this account.
        Conflict: several LoRAs have the name that `from_lora` says.
        DatasetEmpty: a dataset has no usable image.
        LoraIncompatible: `from_lora` was made for another architecture.
        Invalid: no such base model, or parameters that cannot be.
    """
    # Pictures that are deleted while they are frozen must stay until the spec can be seen.
    retention.hold(session, account_id)
    preset, frozen = _frozen(session, account_id, request)
    return queue(
        session,
        account_id,
        name=request.name,
        dataset_id=request.dataset,
        preset=preset,
        spec=frozen.spec,
        warnings=frozen.warnings,
        labels=request.metadata,
        deadline_at=request.deadline,
        webhook_url=request.webhook,
        request_id=request_id,
    )


def try_out(session: Session, account_id: str, request: TrainingCreate) -> Forecast:
    """What the training would take, if it were submitted; it raises what `submit` does."""
    if request.webhook is not None:
        webhooks.check(request.webhook, "webhook")
    _, frozen = _frozen(session, account_id, request)
    return forecast(session, account_id, frozen)


def _frozen(session: Session, account_id: str, request: TrainingCreate) -> tuple[Task, Frozen]:
    dataset = datasets.get(session, account_id, request.dataset, for_job=True)
    preset = request.preset or dataset.task
    frozen = freeze(
        session,
        account_id,
        request,
        dataset=dataset,
        preset=preset,
        base_model=offered_base_model(request.base_model),
    )
    return preset, frozen


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
    deadline_at: datetime | None = None,
    webhook_url: str | None = None,
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
        deadline_at=deadline_at,
        webhook_url=webhook_url,
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


def job_of(session: Session, account_id: str, training_id: str) -> Job:
    """The job of a training of this account.

    Raises:
        NotFound: no such training in this account.
    """
    return jobs.get(session, account_id, training_id, "training")
