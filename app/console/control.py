"""The control room: queues, workers, jobs, accounts and the audit log, for operators alone."""

from datetime import datetime
from typing import Annotated, get_args

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.accounts import keys
from app.accounts.keys import ALL_SCOPES
from app.accounts.quotas import LIMITS
from app.admin import account_routes, audit_routes, job_routes, worker_routes
from app.broker import WORK_QUEUES
from app.console.page import PageDep
from app.console.route import PageRoute
from app.jobs.models import JobKind, JobStatus
from app.web.dependencies import Operator, PageAfter, SessionDep

router = APIRouter(prefix="/control", route_class=PageRoute, include_in_schema=False)

# An empty field of a filter's form comes as an empty text.
Choice = Annotated[str, Query(max_length=200)]


@router.get("")
def control_room(page: PageDep, operator: Operator, session: SessionDep) -> Response:
    """What waits, who works, what failed, and whether every server answers."""
    return page.render(
        "control.html",
        queues=job_routes.list_queues(operator, session).data,
        workers=worker_routes.list_workers(operator, session).data,
        failures=job_routes.list_failures(operator, session).data,
        health=worker_routes.get_health(operator),
    )


@router.get("/jobs")
def control_jobs(
    page: PageDep,
    operator: Operator,
    session: SessionDep,
    status: Choice = "",
    kind: Choice = "",
    queue: Choice = "",
    account: Choice = "",
    error_code: Choice = "",
    worker: Choice = "",
    since: Choice = "",
    until: Choice = "",
    after: PageAfter = None,
) -> Response:
    """Every job, by filters; many can be canceled or retried at once."""
    wanted = {
        "status": status,
        "kind": kind,
        "queue": queue,
        "account": account.strip(),
        "error_code": error_code.strip(),
        "worker": worker.strip(),
        "since": since,
        "until": until,
    }
    found = job_routes.list_all_jobs(
        operator,
        session,
        status=status if status in get_args(JobStatus) else None,  # type: ignore[arg-type]
        kind=kind if kind in get_args(JobKind) else None,  # type: ignore[arg-type]
        queue=wanted["queue"] or None,
        account=wanted["account"] or None,
        error_code=wanted["error_code"] or None,
        worker=wanted["worker"] or None,
        since=_moment(since),
        until=_moment(until),
        limit=50,
        after=after,
    )
    return page.render(
        "control_jobs.html",
        jobs=found,
        wanted=wanted,
        statuses=get_args(JobStatus),
        kinds=get_args(JobKind),
        queues=WORK_QUEUES,
    )


@router.get("/jobs/{job_id}")
def control_job(job_id: str, page: PageDep, operator: Operator, session: SessionDep) -> Response:
    """One job and its whole story."""
    return page.render("control_job.html", job=job_routes.get_any_job(job_id, operator, session))


@router.get("/accounts")
def control_accounts(
    page: PageDep, operator: Operator, session: SessionDep, after: PageAfter = None
) -> Response:
    """Every account, and a form for another."""
    found = account_routes.list_accounts(operator, session, limit=50, after=after)
    return page.render("control_accounts.html", accounts=found)


@router.get("/accounts/{account_id}")
def control_account(
    account_id: str, page: PageDep, operator: Operator, session: SessionDep
) -> Response:
    """One account: quotas, limits, keys."""
    return page.render(
        "control_account.html",
        read=account_routes.get_any_account(account_id, operator, session),
        keys=keys.list_newest(session, account_id, limit=100, after=None),
        limits=LIMITS,
        scopes=ALL_SCOPES,
    )


@router.get("/audit")
def control_audit(
    page: PageDep,
    operator: Operator,
    session: SessionDep,
    account: Choice = "",
    action: Choice = "",
    object_id: Choice = "",
    after: PageAfter = None,
) -> Response:
    """Who did what to whose objects."""
    wanted = {
        "account": account.strip(),
        "action": action.strip(),
        "object_id": object_id.strip(),
    }
    found = audit_routes.list_audit_entries(
        operator,
        session,
        account=wanted["account"] or None,
        action=wanted["action"] or None,
        object_id=wanted["object_id"] or None,
        limit=50,
        after=after,
    )
    return page.render("control_audit.html", entries=found, wanted=wanted)


def _moment(told: str) -> datetime | None:
    """What a `datetime-local` field says, in UTC; None of anything else."""
    try:
        return datetime.fromisoformat(f"{told}+00:00")
    except ValueError:
        return None
