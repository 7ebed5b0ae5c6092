"""The routes each kind of job has under its own path: cancel, delete, and events."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.accounts.keys import Scope
from app.accounts.models import Account
from app.jobs import service
from app.jobs.models import Job, JobKind
from app.jobs.routes import EVENTS, EventStream, LastEventId, event_stream
from app.retention import deletion
from app.web.dependencies import SessionDep, scoped


def add_job_routes(
    router: APIRouter,
    kind: JobKind,
    scope: Scope,
    schema: type[BaseModel],
    read: Callable[[Session, Job], Any],
) -> None:
    """Give a router `GET ""/{id}`'s companions: cancel, delete and events."""
    account_of = Depends(scoped(scope))

    @router.post("/{job_id}/cancel", response_model=schema, name=f"cancel_{kind}")
    def cancel(job_id: str, session: SessionDep, account: Account = account_of) -> Any:
        """Ask the job to end; no error when it has ended already."""
        return read(session, service.request_cancel(session, account.id, job_id, kind))

    @router.delete("/{job_id}", status_code=204, name=f"delete_{kind}")
    def delete(job_id: str, session: SessionDep, account: Account = account_of) -> None:
        """Delete a job that has ended, with all it made; published LoRAs stay."""
        deletion.delete_job(session, account.id, job_id, kind)

    @router.get(
        "/{job_id}/events",
        name=f"{kind}_events",
        response_class=EventStream,
        responses=EVENTS,
    )
    def stream_events(
        job_id: str, last_event_id: LastEventId = None, account: Account = account_of
    ) -> EventStream:
        """The job's events as they happen, until it ends; `Last-Event-ID` replays."""
        return event_stream(account.id, job_id, kind, last_event_id)
