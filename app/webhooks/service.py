"""An account's webhook endpoints and their deliveries."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts import quotas
from app.audit import service as audit
from app.broker import deliver_after_commit
from app.database import new_id, utc_now
from app.errors import Conflict, FieldProblem, Invalid, NotFound
from app.webhooks import outbox, signing
from app.webhooks.addresses import AddressRefused, check_url
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.webhooks.names import TEST

DEFAULT = "default"


def check(url: str, field: str) -> str:
    """The URL, if webhooks may go there now; it is looked at again at every delivery.

    Raises:
        Invalid: they may not; it says why.
    """
    try:
        check_url(url)
    except AddressRefused as error:
        problem = FieldProblem(f"/{field}", str(error), "webhook_url_refused")
        raise Invalid(f"{field}: {error}", [problem]) from error
    return url


def create(
    session: Session, account_id: str, url: str, events: list[str], description: str
) -> WebhookEndpoint:
    """A new endpoint with a secret.

    Raises:
        Invalid: nothing is sent to such a URL.
        QuotaExceeded: the account has as many as it may have.
    """
    check(url, "url")
    quotas.take(session, account_id, webhooks=1)
    endpoint = WebhookEndpoint(
        id=new_id("we"),
        account_id=account_id,
        url=url,
        description=description,
        events=events,
        secret=signing.new_secret(),
    )
    session.add(endpoint)
    session.flush()
    session.refresh(endpoint)
    changes = {"host": _host(url), "events": events}
    audit.record(session, "webhook.create", endpoint.id, account_id=account_id, changes=changes)
    return endpoint


def get(session: Session, account_id: str, endpoint_id: str) -> WebhookEndpoint:
    """An endpoint of this account; `default` is the one that signs for single jobs.

    Raises:
        NotFound: no such endpoint in this account.
    """
    if endpoint_id == DEFAULT:
        return outbox.default_endpoint(session, account_id)
    endpoint = session.scalar(
        select(WebhookEndpoint).where(
            WebhookEndpoint.id == endpoint_id, WebhookEndpoint.account_id == account_id
        )
    )
    if endpoint is None:
        raise NotFound(f"No webhook {endpoint_id}")
    return endpoint


def list_newest(
    session: Session, account_id: str, *, limit: int, after: str | None
) -> list[WebhookEndpoint]:
    """Up to `limit` endpoints, newest first."""
    query = select(WebhookEndpoint).where(WebhookEndpoint.account_id == account_id)
    if after is not None:
        query = query.where(WebhookEndpoint.id < after)
    return list(session.scalars(query.order_by(WebhookEndpoint.id.desc()).limit(limit)))


def edit(session: Session, endpoint: WebhookEndpoint, changes: dict[str, Any]) -> WebhookEndpoint:
    """Change `url`, `events`, `description`, or `disabled`.

    Raises:
        Invalid: nothing is sent to such a URL.
        Conflict: the default endpoint has no URL or events of its own.
    """
    if endpoint.url is None and {"url", "events"} & set(changes):
        raise Conflict("The default endpoint signs for the webhooks of single jobs; it has no URL")
    if "url" in changes:
        check(changes["url"], "url")
    disabled = changes.pop("disabled", None)
    for name, value in changes.items():
        setattr(endpoint, name, value)
    if disabled is False:
        endpoint.disabled_at = endpoint.disabled_reason = None
    elif disabled and endpoint.disabled_at is None:
        endpoint.disabled_at, endpoint.disabled_reason = utc_now(), "by its account"
    session.flush()
    told = dict(changes) if disabled is None else {**changes, "disabled": disabled}
    if "url" in told:
        told["host"] = _host(told.pop("url"))
    audit.record(session, "webhook.edit", endpoint.id, account_id=endpoint.account_id, changes=told)
    return endpoint


def rotate(session: Session, endpoint: WebhookEndpoint, overlap: timedelta) -> str:
    """Give an endpoint a new secret; the one before signs besides for so long. The new one."""
    endpoint.previous_secret = endpoint.secret if overlap else None
    endpoint.previous_until = utc_now() + overlap if overlap else None
    endpoint.secret = signing.new_secret()
    session.flush()
    changes = {"overlap_seconds": overlap.total_seconds()}
    audit.record(
        session, "webhook.rotate", endpoint.id, account_id=endpoint.account_id, changes=changes
    )
    return endpoint.secret


def delete(session: Session, endpoint: WebhookEndpoint) -> None:
    """Delete an endpoint with its deliveries; what waits is not sent."""
    changes = {"host": None if endpoint.url is None else _host(endpoint.url)}
    session.delete(endpoint)
    session.flush()
    audit.record(
        session, "webhook.delete", endpoint.id, account_id=endpoint.account_id, changes=changes
    )


def send_test(session: Session, endpoint: WebhookEndpoint) -> WebhookDelivery:
    """Send a message that means nothing.

    Raises:
        Conflict: the endpoint is disabled, or has no URL.
    """
    _check_open(endpoint)
    if endpoint.url is None:
        raise Conflict("The default endpoint has no URL")
    body = outbox.message(TEST, {"endpoint": endpoint.id})
    return outbox.add(session, endpoint, event=TEST, object_id=None, body=body)


def deliveries(
    session: Session, endpoint: WebhookEndpoint, *, limit: int, after: str | None
) -> list[WebhookDelivery]:
    """Up to `limit` deliveries of an endpoint, newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint.id)
    if after is not None:
        query = query.where(WebhookDelivery.id < after)
    return list(session.scalars(query.order_by(WebhookDelivery.id.desc()).limit(limit)))


def delivery(session: Session, endpoint: WebhookEndpoint, delivery_id: str) -> WebhookDelivery:
    """One delivery of an endpoint.

    Raises:
        NotFound: it has no such delivery.
    """
    found = session.scalar(
        select(WebhookDelivery).where(
            WebhookDelivery.id == delivery_id, WebhookDelivery.endpoint_id == endpoint.id
        )
    )
    if found is None:
        raise NotFound(f"No delivery {delivery_id} of {endpoint.id}")
    return found


def resend(session: Session, endpoint: WebhookEndpoint, found: WebhookDelivery) -> None:
    """Send a message again from now on, under its own id, with all its attempts before it.

    Raises:
        Conflict: the endpoint is disabled, or it is being sent anyway.
    """
    _check_open(endpoint)
    if found.status == "pending" and found.attempt == 0:
        raise Conflict(f"{found.id} has not been sent yet")
    found.status, found.attempt, found.due_at = "pending", 0, utc_now()
    session.flush()
    deliver_after_commit(session)


def signs_until(endpoint: WebhookEndpoint) -> datetime | None:
    """Until when the secret before the last rotation signs besides; None if it no longer does."""
    ends = endpoint.previous_until
    return ends if ends is not None and ends > utc_now() else None


def _host(url: str) -> str | None:
    """What the audit log tells of a URL: the rest of it may be a secret."""
    return urlsplit(url).hostname


def _check_open(endpoint: WebhookEndpoint) -> None:
    if endpoint.disabled_at is not None:
        reason = endpoint.disabled_reason
        raise Conflict(f"{endpoint.id} is disabled ({reason}); enable it with disabled: false")
