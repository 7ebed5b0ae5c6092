"""Jobs, queues and failures of all accounts, for operators."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.admin import jobs
from app.broker import WORK_QUEUES
from app.errors import LorawrightError
from app.jobs import events
from app.jobs.models import Job, JobKind, JobStatus
from app.jobs.schemas import JobErrorRead, JobRead, job_fields
from app.web.dependencies import Operator, PageAfter, PageLimit, RequestId, SessionDep
from app.web.once import OnceRoute
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/admin", tags=["admin"], route_class=OnceRoute)
routers = [router]

MAX_EVENTS = 500
JobIds = Annotated[list[Annotated[str, Field(max_length=40)]], Field(min_length=1, max_length=1000)]


class OperatorsJob(JobRead):
    """A job with what only operators see."""

    account: str
    queue_name: str
    priority: int
    worker: str | None
    # Attempts that count against it, of so many.
    failures: int
    max_attempts: int
    request_id: str | None
    deleted_at: datetime | None


class EventRead(BaseModel):
    """One line of a job's story."""

    seq: int
    type: str
    created_at: datetime
    payload: dict[str, Any]


class OperatorsJobDetails(OperatorsJob):
    """A job with the first lines of its story; `/events` of its kind has all of them."""

    events: list[EventRead]


class JobsChosen(BaseModel):
    """Jobs to act on."""

    model_config = ConfigDict(extra="forbid")

    ids: JobIds


class JobOutcome(BaseModel):
    """What became of one of them."""

    id: str
    # Of a retry.
    new_job: str | None = None
    error: JobErrorRead | None = None


class JobOutcomes(BaseModel):
    """In the order they were asked for."""

    data: list[JobOutcome]


class FailureRead(BaseModel):
    """Jobs that failed in the same way, with the newest of them."""

    model_config = ConfigDict(from_attributes=True)

    kind: JobKind
    code: str
    jobs: int
    accounts: int
    newest_at: datetime
    newest_id: str
    message: str


class Failures(BaseModel):
    """The most frequent first."""

    data: list[FailureRead]


class QueueRead(BaseModel):
    """One queue."""

    model_config = ConfigDict(from_attributes=True)

    queue: str
    queued: int
    running: int
    oldest_waiting_seconds: float | None
    ended_last_hour: int
    failed_last_hour: int


class Queues(BaseModel):
    """Every queue."""

    data: list[QueueRead]


@router.get("/jobs")
def list_all_jobs(
    _: Operator,
    session: SessionDep,
    status: JobStatus | None = None,
    kind: JobKind | None = None,
    queue: Annotated[str | None, Query(max_length=20)] = None,
    account: Annotated[str | None, Query(max_length=40)] = None,
    error_code: Annotated[str | None, Query(max_length=60)] = None,
    worker: Annotated[str | None, Query(max_length=200)] = None,
    since: Annotated[AwareDatetime | None, Query(description="Created from then on")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Created before then")] = None,
    limit: PageLimit = 20,
    after: PageAfter = None,
) -> Page[OperatorsJob]:
    """Jobs of all accounts, newest first; those that were deleted are among them."""
    wanted = jobs.Filters(status, kind, queue, account, error_code, worker, since, until)
    rows = jobs.list_newest(session, wanted, limit=limit + 1, after=after)
    return page_of(rows, limit, lambda job: OperatorsJob(**_fields(session, job)))


@router.post("/jobs/cancel")
def cancel_jobs(body: JobsChosen, _: Operator, session: SessionDep) -> JobOutcomes:
    """Cancel many jobs; each is told of by itself."""
    outcomes = jobs.each(session, body.ids, lambda job_id: jobs.cancel(session, job_id))
    return _told(outcomes)


@router.post("/jobs/retry")
def retry_jobs(
    body: JobsChosen, _: Operator, session: SessionDep, request_id: RequestId
) -> JobOutcomes:
    """Queue many failed or canceled jobs again; each is told of by itself."""
    outcomes = jobs.each(session, body.ids, lambda job_id: jobs.retry(session, job_id, request_id))
    return _told(outcomes)


@router.get("/jobs/{job_id}")
def get_any_job(job_id: str, _: Operator, session: SessionDep) -> OperatorsJobDetails:
    """One job of whatever account, with its story."""
    job = jobs.get(session, job_id)
    story = events.read_after(session, job_id, 0, MAX_EVENTS)
    lines = [EventRead.model_validate(line, from_attributes=True) for line in story]
    return OperatorsJobDetails(**_fields(session, job), events=lines)


@router.post("/jobs/{job_id}/cancel")
def cancel_any_job(job_id: str, _: Operator, session: SessionDep) -> OperatorsJob:
    """End a queued job, or ask a running one to end."""
    jobs.cancel(session, job_id)
    return OperatorsJob(**_fields(session, jobs.get(session, job_id)))


@router.post("/jobs/{job_id}/retry", status_code=201)
def retry_any_job(
    job_id: str, _: Operator, session: SessionDep, request_id: RequestId
) -> OperatorsJob:
    """Queue a failed or canceled training or generation again; the answer is the new job."""
    new_id = jobs.retry(session, job_id, request_id)
    return OperatorsJob(**_fields(session, jobs.get(session, new_id)))


@router.get("/failures")
def list_failures(
    _: Operator,
    session: SessionDep,
    hours: Annotated[int, Query(ge=1, le=24 * 90, description="How far back")] = 24,
) -> Failures:
    """How jobs have failed lately, the most frequent first."""
    found = jobs.failures(session, timedelta(hours=hours))
    return Failures(data=[FailureRead.model_validate(one) for one in found])


@router.get("/queues")
def list_queues(_: Operator, session: SessionDep) -> Queues:
    """What waits and runs on every queue, and what ended there within the last hour."""
    found = jobs.queues(session, WORK_QUEUES)
    return Queues(data=[QueueRead.model_validate(one) for one in found])


def _fields(session: Session, job: Job) -> dict[str, Any]:
    return {
        **job_fields(session, job),
        "account": job.account_id,
        "queue_name": job.queue,
        "priority": job.priority,
        "worker": job.worker_id,
        "failures": job.failures,
        "max_attempts": job.max_attempts,
        "request_id": job.request_id,
        "deleted_at": job.deleted_at,
    }


def _told(outcomes: Mapping[str, LorawrightError | object]) -> JobOutcomes:
    data = []
    for job_id, found in outcomes.items():
        if isinstance(found, LorawrightError):
            error = JobErrorRead(code=found.code, message=found.detail, retryable=found.retryable)
            data.append(JobOutcome(id=job_id, error=error))
        else:
            data.append(JobOutcome(id=job_id, new_job=found if isinstance(found, str) else None))
    return JobOutcomes(data=data)
