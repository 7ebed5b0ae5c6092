"""Jobs of every kind in one list, and what each kind's routes share: events."""

import re
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from app.database import transaction
from app.errors import Invalid
from app.jobs import service
from app.jobs.models import EventType, JobKind, JobStatus
from app.jobs.schemas import JobRead, read_job
from app.jobs.stream import follow
from app.web.dependencies import AnyAccount, PageAfter, PageLimit, SessionDep
from app.web.pages import Page, page_of

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

routers = [router]

# Events are numbered in 32 bits.
MAX_EVENT = 999_999_999
LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", description="Go on after this event's id")
]


@router.get("")
def list_jobs(
    account: AnyAccount,
    session: SessionDep,
    kind: JobKind | None = None,
    status: JobStatus | None = None,
    limit: PageLimit = 20,
    after: PageAfter = None,
) -> Page[JobRead]:
    """The account's jobs, newest first."""
    rows = service.list_newest(
        session, account.id, limit=limit + 1, after=after, kind=kind, status=status
    )
    return page_of(rows, limit, lambda job: read_job(session, job))


@router.get("/{job_id}")
def get_job(job_id: str, account: AnyAccount, session: SessionDep) -> JobRead:
    """One job, by the fields all kinds share."""
    return read_job(session, service.get(session, account.id, job_id))


class EventStream(StreamingResponse):
    """Server-Sent Events."""

    media_type = "text/event-stream"


# In the document: what each event of a stream is.
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events until the job has ended",
        "content": {
            EventStream.media_type: {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {
                        "id": {"type": "string", "description": "Its number, from 1"},
                        "event": {"type": "string", "enum": list(get_args(EventType))},
                        "data": {"type": "string", "description": "A JSON object"},
                    },
                }
            }
        },
    }
}


@router.get("/{job_id}/events", response_class=EventStream, responses=EVENTS)
def job_events(
    job_id: str,
    account: AnyAccount,
    last_event_id: LastEventId = None,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_EVENT, description="The same, as a parameter")
    ] = None,
) -> EventStream:
    """The job's events, from the first or the one named, until it ends."""
    return event_stream(account.id, job_id, None, last_event_id, after)


def event_stream(
    account_id: str,
    job_id: str,
    kind: JobKind | None,
    last_event_id: str | None,
    after: int | None = None,
) -> EventStream:
    """Check that the job is the account's, then stream without holding a transaction."""
    if last_event_id is not None and not re.fullmatch(r"[0-9]{1,9}", last_event_id):
        raise Invalid(f"Last-Event-ID is {last_event_id!r}; it is the number of an event")
    with transaction() as session:
        service.get(session, account_id, job_id, kind)
    first = int(last_event_id) if last_event_id is not None else (after or 0)
    return EventStream(
        follow(job_id, first),
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )
