"""Webhooks over HTTP."""

import json
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from app.web.dependencies import ManagingAccount, PageAfter, PageLimit, SessionDep
from app.web.once import OnceRoute, keep_without_secret
from app.web.pages import Page, page_of
from app.webhooks import service
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.webhooks.schemas import (
    AttemptRead,
    DeliveryOverview,
    DeliveryRead,
    WebhookCreate,
    WebhookMade,
    WebhookPatch,
    WebhookRead,
    WebhookRotate,
)

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=OnceRoute)
routers = [router]


@router.post("", status_code=201)
def create_webhook(
    body: WebhookCreate, account: ManagingAccount, session: SessionDep, request: Request
) -> WebhookMade:
    """Tell an address of jobs' changes. Its secret is shown in this answer and never again."""
    endpoint = service.create(session, account.id, body.url, body.events, body.description)
    return _made(request, endpoint, endpoint.secret)


@router.get("")
def list_webhooks(
    account: ManagingAccount, session: SessionDep, limit: PageLimit = 20, after: PageAfter = None
) -> Page[WebhookRead]:
    """The account's endpoints, newest first."""
    rows = service.list_newest(session, account.id, limit=limit + 1, after=after)
    return page_of(rows, limit, _read)


@router.get("/{webhook_id}")
def get_webhook(webhook_id: str, account: ManagingAccount, session: SessionDep) -> WebhookRead:
    """One endpoint, without its secret; `default` signs for the `webhook` of single jobs."""
    return _read(service.get(session, account.id, webhook_id))


@router.patch("/{webhook_id}")
def edit_webhook(
    webhook_id: str, patch: WebhookPatch, account: ManagingAccount, session: SessionDep
) -> WebhookRead:
    """Change where it goes or what it tells of; `disabled: false` enables it again."""
    endpoint = service.get(session, account.id, webhook_id)
    return _read(service.edit(session, endpoint, patch.model_dump(exclude_none=True)))


@router.delete("/{webhook_id}", status_code=204)
def delete_webhook(webhook_id: str, account: ManagingAccount, session: SessionDep) -> None:
    """Delete an endpoint with its deliveries; what waits is not sent."""
    service.delete(session, service.get(session, account.id, webhook_id))


@router.post("/{webhook_id}/rotate")
def rotate_webhook(
    webhook_id: str,
    account: ManagingAccount,
    session: SessionDep,
    request: Request,
    body: Annotated[WebhookRotate | None, Body()] = None,
) -> WebhookMade:
    """Give an endpoint a new secret; the one before signs besides for `overlap_seconds`."""
    endpoint = service.get(session, account.id, webhook_id)
    overlap = timedelta(seconds=(body or WebhookRotate()).overlap_seconds)
    return _made(request, endpoint, service.rotate(session, endpoint, overlap))


@router.post("/{webhook_id}/test", status_code=201)
def test_webhook(webhook_id: str, account: ManagingAccount, session: SessionDep) -> DeliveryRead:
    """Send `webhook.test`; the delivery tells what became of it."""
    endpoint = service.get(session, account.id, webhook_id)
    sent = service.send_test(session, endpoint)
    session.refresh(sent)
    return _read_delivery(endpoint, sent)


@router.get("/{webhook_id}/deliveries")
def list_deliveries(
    webhook_id: str,
    account: ManagingAccount,
    session: SessionDep,
    limit: PageLimit = 20,
    after: PageAfter = None,
) -> Page[DeliveryOverview]:
    """What was sent to an endpoint, or waits to be, newest first."""
    endpoint = service.get(session, account.id, webhook_id)
    rows = service.deliveries(session, endpoint, limit=limit + 1, after=after)
    return page_of(rows, limit, lambda row: DeliveryOverview(**_overview(row)))


@router.get("/{webhook_id}/deliveries/{delivery_id}")
def get_delivery(
    webhook_id: str, delivery_id: str, account: ManagingAccount, session: SessionDep
) -> DeliveryRead:
    """One delivery, with its body and every attempt."""
    endpoint = service.get(session, account.id, webhook_id)
    return _read_delivery(endpoint, service.delivery(session, endpoint, delivery_id))


@router.post("/{webhook_id}/deliveries/{delivery_id}/resend")
def resend_delivery(
    webhook_id: str, delivery_id: str, account: ManagingAccount, session: SessionDep
) -> DeliveryRead:
    """Send a message again, under its own id."""
    endpoint = service.get(session, account.id, webhook_id)
    found = service.delivery(session, endpoint, delivery_id)
    service.resend(session, endpoint, found)
    return _read_delivery(endpoint, found)


def _made(request: Request, endpoint: WebhookEndpoint, secret: str) -> WebhookMade:
    answer = WebhookMade(**_read(endpoint).model_dump(), secret=secret)
    keep_without_secret(request, answer)
    return answer


def _read(endpoint: WebhookEndpoint) -> WebhookRead:
    return WebhookRead(
        id=endpoint.id,
        url=endpoint.url,
        events=endpoint.events,
        description=endpoint.description,
        created_at=endpoint.created_at,
        disabled_at=endpoint.disabled_at,
        disabled_reason=endpoint.disabled_reason,
        previous_until=service.signs_until(endpoint),
    )


def _overview(row: WebhookDelivery) -> dict[str, Any]:
    return {
        "id": row.id,
        "event": row.event,
        "object_id": row.object_id,
        "status": row.status,
        "attempts_made": row.attempt,
        "due_at": row.due_at,
        "delivered_at": row.delivered_at,
        "created_at": row.created_at,
    }


def _read_delivery(endpoint: WebhookEndpoint, row: WebhookDelivery) -> DeliveryRead:
    return DeliveryRead(
        **_overview(row),
        url=row.url or endpoint.url or "",
        body=json.loads(row.body),
        attempts=[AttemptRead.model_validate(told) for told in row.attempts],
    )
