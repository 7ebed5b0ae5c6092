"""What every job shows of itself on the wire."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.database import JsonObject
from app.jobs import pace, service
from app.jobs.models import Job, JobKind, JobStatus


class Progress(BaseModel):
    fraction: float
    step: int | None
    total_steps: int | None
    stage: str | None
    eta_s: float | None


class QueuePlace(BaseModel):
    """About how many jobs go first (0: next), and seconds until this one starts."""

    position: int
    # Null while no worker of the queue lives, or none has ended such a job lately.
    eta_s: float | None


class JobErrorRead(BaseModel):
    code: str
    message: str
    retryable: bool


class Usage(BaseModel):
    gpu_seconds: float


class JobRead(BaseModel):
    """The fields that captionings, trainings, generations and ingests share."""

    id: str
    object: JobKind
    status: JobStatus
    progress: Progress
    queue: QueuePlace | None
    cancel_requested_at: datetime | None
    deadline_at: datetime | None
    error: JobErrorRead | None
    usage: Usage
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    attempts: int
    metadata: JsonObject


def job_fields(session: Session, job: Job) -> dict[str, Any]:
    """A job's shared fields, to be joined by those of its kind."""
    error = None
    if job.error_code is not None:
        error = JobErrorRead(
            code=job.error_code,
            message=job.error_message or "",
            retryable=bool(job.error_retryable),
        )
    return {
        "id": job.id,
        "object": job.kind,
        "status": job.status,
        "progress": Progress(
            fraction=job.progress_fraction,
            step=job.progress_step,
            total_steps=job.progress_total_steps,
            stage=job.progress_stage,
            eta_s=job.progress_eta_s,
        ),
        "queue": place_of(session, job),
        "cancel_requested_at": job.cancel_requested_at,
        "deadline_at": job.deadline_at,
        "error": error,
        "usage": Usage(gpu_seconds=round(job.gpu_seconds, 3)),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "attempts": job.attempt,
        "metadata": job.labels,
    }


def place_of(session: Session, job: Job) -> QueuePlace | None:
    """Where a job waits; None once it waits no more."""
    position = service.position_in_queue(session, job)
    if position is None:
        return None
    eta = pace.eta_seconds(session, job.queue, position)
    return QueuePlace(position=position, eta_s=eta)


def read_job(session: Session, job: Job) -> JobRead:
    """A job of any kind, by its shared fields alone."""
    return JobRead(**job_fields(session, job))
