"""Trainings over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session

from app.catalog import BaseModelEntry
from app.database import JsonObject
from app.jobs import service as jobs
from app.jobs.forecast import Forecast
from app.jobs.kind_routes import add_job_routes
from app.jobs.models import Job
from app.jobs.schemas import job_fields
from app.loras import service as loras
from app.loras.routes import read_lora
from app.loras.schemas import LoraRead
from app.storage import ObjectStore
from app.trainings import service
from app.trainings.models import Checkpoint
from app.trainings.params import TrainingParams
from app.trainings.presets import PRESETS, Preset, resolve
from app.trainings.schemas import (
    CheckpointRead,
    CheckpointsRead,
    MetricRead,
    MetricsRead,
    PresetRead,
    PresetsRead,
    PublishCreate,
    SampleRead,
    TrainingCreate,
    TrainingRead,
)
from app.web.dependencies import (
    DryRun,
    PageAfter,
    PageLimit,
    RequestId,
    SessionDep,
    StoreDep,
    TrainingsAccount,
)
from app.web.once import OnceRoute
from app.web.pages import Page, page_of

trainings = APIRouter(prefix="/v1/trainings", tags=["trainings"], route_class=OnceRoute)
presets = APIRouter(prefix="/v1/presets", tags=["trainings"], route_class=OnceRoute)
routers = [trainings, presets]


@trainings.post(
    "",
    status_code=201,
    response_model=TrainingRead,
    responses={200: {"model": Forecast, "description": "What it would take, with `dry_run`"}},
)
def create_training(
    dry_run: DryRun,
    request: TrainingCreate,
    account: TrainingsAccount,
    session: SessionDep,
    request_id: RequestId,
) -> TrainingRead | JSONResponse:
    """Queue the training of a LoRA on a dataset."""
    if dry_run:
        return JSONResponse(service.try_out(session, account.id, request).model_dump(mode="json"))
    training = service.submit(session, account.id, request, request_id)
    return _read(session, service.job_of(session, account.id, training.id))


@trainings.get("")
def list_trainings(
    account: TrainingsAccount,
    session: SessionDep,
    limit: PageLimit = 20,
    after: PageAfter = None,
) -> Page[TrainingRead]:
    """The account's trainings, newest first."""
    rows = jobs.list_newest(session, account.id, limit=limit + 1, after=after, kind="training")
    return page_of(rows, limit, lambda job: _read(session, job))


# The name that the routes all kinds share give it: OpenAPI knows a path by one name alone.
@trainings.get("/{job_id}")
def get_training(job_id: str, account: TrainingsAccount, session: SessionDep) -> TrainingRead:
    """One training."""
    return _read(session, service.job_of(session, account.id, job_id))


@trainings.post("/{training_id}/retry", status_code=201)
def retry_training(
    training_id: str, account: TrainingsAccount, session: SessionDep, request_id: RequestId
) -> TrainingRead:
    """Go on from the newest state of a failed or canceled training, as a new job."""
    training = service.retry(session, account.id, training_id, request_id)
    return _read(session, service.job_of(session, account.id, training.id))


@trainings.get("/{training_id}/metrics")
def get_metrics(
    training_id: str,
    account: TrainingsAccount,
    session: SessionDep,
    after: Annotated[int, Query(ge=-1, le=2**31 - 1, description="Only steps after this one")] = -1,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> MetricsRead:
    """Loss, rate, gradient norm, speed and memory of each step, oldest first."""
    service.job_of(session, account.id, training_id)
    rows = service.metrics(session, training_id, after=after, limit=limit + 1)
    data = [MetricRead.model_validate(row, from_attributes=True) for row in rows[:limit]]
    more = len(rows) > limit
    return MetricsRead(data=data, has_more=more, next=data[-1].step if more else None)


@trainings.get("/{training_id}/checkpoints")
def list_checkpoints(
    training_id: str, account: TrainingsAccount, session: SessionDep, store: StoreDep
) -> CheckpointsRead:
    """The LoRA files saved along the way, by step."""
    service.job_of(session, account.id, training_id)
    rows = service.checkpoints(session, training_id)
    return CheckpointsRead(data=[_read_checkpoint(store, row) for row in rows])


@trainings.post("/{training_id}/checkpoints/{checkpoint_id}/publish", status_code=201)
def publish_checkpoint(
    training_id: str,
    checkpoint_id: str,
    request: PublishCreate,
    account: TrainingsAccount,
    session: SessionDep,
) -> LoraRead:
    """Make a checkpoint a LoRA of its own."""
    service.job_of(session, account.id, training_id)
    training = service.get(session, training_id)
    checkpoint = service.checkpoint(session, training_id, checkpoint_id)
    return read_lora(loras.publish(session, account.id, training, checkpoint, name=request.name))


@trainings.get("/{training_id}/spec")
def get_spec(training_id: str, account: TrainingsAccount, session: SessionDep) -> JsonObject:
    """The frozen spec: manifest with hashes, every parameter; what made this LoRA."""
    service.job_of(session, account.id, training_id)
    return service.get(session, training_id).spec


@presets.get("")
def list_presets(
    account: TrainingsAccount,  # noqa: ARG001 (only asks for a key)
    base_model: Annotated[str | None, Query(max_length=64)] = None,
    images: Annotated[
        int | None,
        Query(
            ge=1,
            le=1_000_000,
            description="For so many images; without it, the fewest each is made for",
        ),
    ] = None,
) -> PresetsRead:
    """Every preset with all its values on a base model, for a number of images."""
    entry = service.offered_base_model(base_model)
    return PresetsRead(
        data=[
            _read_preset(preset, entry, images or preset.images_from) for preset in PRESETS.values()
        ]
    )


def _read_preset(preset: Preset, base_model: BaseModelEntry, images: int) -> PresetRead:
    params = resolve(preset.id, base_model, TrainingParams(), 0, images=images)
    return PresetRead(
        id=preset.id,
        title=preset.title,
        images_from=preset.images_from,
        images_to=preset.images_to,
        base_model=base_model.id,
        images=images,
        passes=params.num_repeats * params.epochs,
        params=params.model_copy(update={"seed": None}),
    )


def _read(session: Session, job: Job) -> TrainingRead:
    detail = service.get(session, job.id)
    return TrainingRead(
        **job_fields(session, job),
        name=detail.name,
        dataset=detail.dataset_id,
        base_model=detail.base_model,
        preset=detail.preset,
        params=detail.spec["params"],
        warnings=detail.warnings,
        from_lora=(detail.spec.get("warm_start") or {}).get("lora"),
        retry_of=detail.retry_of,
        lora=service.published_lora(session, job.id),
    )


def _read_checkpoint(store: ObjectStore, row: Checkpoint) -> CheckpointRead:
    return CheckpointRead(
        id=row.id,
        epoch=row.epoch,
        step=row.step,
        validation_loss=row.validation_loss,
        base_validation_loss=row.base_validation_loss,
        prior_drift=row.prior_drift,
        recommended=row.recommended,
        sha256=row.sha256,
        bytes=row.bytes,
        url=store.presign_get(row.object_key, f"{row.training_id}-{row.step}.safetensors"),
        samples=[
            SampleRead(
                prompt=sample["prompt"],
                seed=sample["seed"],
                url=store.presign_get(sample["object_key"]),
            )
            for sample in row.samples
        ],
        created_at=row.created_at,
    )


add_job_routes(trainings, "training", "trainings", TrainingRead, _read)
