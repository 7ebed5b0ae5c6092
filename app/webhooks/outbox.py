"""Messages about a job's change of status, written in the transaction that changes it.

What is rolled back is never told, and what is committed is: whoever sends looks for rows.
"""

import json
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.broker import deliver_after_commit
from app.database import JsonObject, new_id, utc_now
from app.jobs.models import Job
from app.jobs.paths import PATHS
from app.loras.models import Lora
from app.webhooks import signing
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.webhooks.names import wanted


def put(session: Session, job_id: str) -> None:
    """Write down what is to be sent of a job's status, as it is in this transaction."""
    job = session.scalars(
        select(Job).where(Job.id == job_id).execution_options(populate_existing=True)
    ).one()
    event = f"{job.kind}.{job.status}"
    body = None
    endpoints = session.scalars(
        select(WebhookEndpoint).where(
            WebhookEndpoint.account_id == job.account_id,
            WebhookEndpoint.disabled_at.is_(None),
            WebhookEndpoint.url.is_not(None),
        )
    ).all()
    targets: list[tuple[WebhookEndpoint, str | None]] = [
        (endpoint, None) for endpoint in endpoints if wanted(endpoint.events, event)
    ]
    if job.webhook_url is not None:
        own = default_endpoint(session, job.account_id)
        if own.disabled_at is None:
            targets.append((own, job.webhook_url))
    for endpoint, url in targets:
        body = body or message(event, _told(session, job))
        add(session, endpoint, event=event, object_id=job_id, body=body, url=url)


def add(
    session: Session,
    endpoint: WebhookEndpoint,
    *,
    event: str,
    object_id: str | None,
    body: str,
    url: str | None = None,
) -> WebhookDelivery:
    """One message, due now; whoever sends is woken after the commit."""
    delivery = WebhookDelivery(
        id=new_id("evt"),
        account_id=endpoint.account_id,
        endpoint_id=endpoint.id,
        url=url,
        event=event,
        object_id=object_id,
        body=body,
        due_at=utc_now(),
    )
    session.add(delivery)
    session.flush()
    deliver_after_commit(session)
    return delivery


def message(event: str, data: JsonObject) -> str:
    """A body as the Standard Webhooks specification has it."""
    told = {"type": event, "timestamp": _time(utc_now()), "data": data}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def default_endpoint(session: Session, account_id: str) -> WebhookEndpoint:
    """The endpoint whose secret signs what is sent to single jobs' addresses."""
    query = select(WebhookEndpoint).where(
        WebhookEndpoint.account_id == account_id, WebhookEndpoint.url.is_(None)
    )
    found = session.scalar(query)
    if found is not None:
        return found
    made = WebhookEndpoint(
        id=new_id("we"), account_id=account_id, url=None, events=[], secret=signing.new_secret()
    )
    try:
        with session.begin_nested():
            session.add(made)
    except IntegrityError:
        # Another transaction has made it meanwhile.
        return session.scalars(query).one()
    return made


def _told(session: Session, job: Job) -> JsonObject:
    """The job's shared fields, as its GET tells them; its results are read there."""
    told: JsonObject = {
        "id": job.id,
        "object": job.kind,
        "status": job.status,
        # Grows with every event of the job, so that a receiver can put messages in order.
        "sequence": job.event_seq,
        "attempts": job.attempt,
        "created_at": _time(job.created_at),
        "started_at": _time(job.started_at),
        "ended_at": _time(job.ended_at),
        "error": None,
        "usage": {"gpu_seconds": round(job.gpu_seconds, 3)},
        "metadata": job.labels,
        "href": f"{PATHS[job.kind]}/{job.id}",
    }
    if job.error_code is not None:
        told["error"] = {
            "code": job.error_code,
            "message": job.error_message or "",
            "retryable": bool(job.error_retryable),
        }
    if job.kind == "training" and job.status == "succeeded":
        told["lora"] = session.scalar(
            select(Lora.id)
            .where(Lora.training_id == job.id)
            .order_by(Lora.created_at.desc(), Lora.id.desc())
            .limit(1)
        )
    return told


def _time(at: datetime | None) -> str | None:
    if at is None:
        return None
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
