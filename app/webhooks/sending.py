"""What is due to be sent, and what becomes of it: claims, pauses, and giving up.

A claim sets `due_at` to when its sender is believed lost, so a delivery whose sender was killed is
sent again, under the same id. Receivers are told at least once.
"""

import random
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Integer, String, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from app.database import utc_now
from app.settings import get_settings
from app.webhooks.models import WebhookDelivery, WebhookEndpoint

# Seconds before the second attempt, the third and so on: three days in all, as the Standard
# Webhooks specification recommends.
PAUSES = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
# Pauses are longer by up to this share, so that what failed together is not tried together.
JITTER = 0.2
# Of one endpoint at once, so that one that hangs takes no place of the others.
MOST_AN_ENDPOINT = 5
# Beyond the time a delivery may take, before its sender is believed lost.
LEASE_MARGIN_SECONDS = 30
GONE = 410
MAX_ATTEMPTS_KEPT = 20
PRUNED_AT_ONCE = 1000


@dataclass(frozen=True)
class Sending:
    """A delivery that this process is to make.

    Attributes:
        secrets: of the signatures, the newest first.
    """

    id: str
    attempt: int
    endpoint_id: str
    url: str
    body: str
    secrets: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What an attempt came to.

    Attributes:
        status: of the answer; None if there was none.
        answer: its beginning.
    """

    status: int | None
    milliseconds: int
    error: str | None = None
    answer: str = ""

    @property
    def succeeded(self) -> bool:
        """Only an answer of 2xx counts; a redirect does not."""
        return self.status is not None and 200 <= self.status < 300


_DUE = text("""
    SELECT due.id FROM webhook_endpoints
    CROSS JOIN LATERAL (
        SELECT webhook_deliveries.id, due_at FROM webhook_deliveries
        WHERE endpoint_id = webhook_endpoints.id AND status = 'pending' AND due_at <= now()
        ORDER BY due_at LIMIT :most_an_endpoint
    ) AS due
    WHERE disabled_at IS NULL AND webhook_endpoints.id <> ALL (:busy)
    ORDER BY due.due_at LIMIT :most
""").bindparams(
    bindparam("busy", type_=ARRAY(String)),
    bindparam("most", type_=Integer),
    bindparam("most_an_endpoint", type_=Integer),
)


def claim_due(session: Session, most: int, busy: Collection[str]) -> list[Sending]:
    """Take up to so many deliveries that are due, of endpoints that are not busy."""
    found = session.scalars(
        _DUE, {"most": most, "busy": list(busy), "most_an_endpoint": MOST_AN_ENDPOINT}
    ).all()
    free = (
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.id.in_(found),
            WebhookDelivery.status == "pending",
            WebhookDelivery.due_at <= func.now(),
        )
        .with_for_update(skip_locked=True)
    )
    lease = timedelta(seconds=get_settings().webhook_timeout_seconds + LEASE_MARGIN_SECONDS)
    taken = session.scalars(
        update(WebhookDelivery)
        .where(WebhookDelivery.id.in_(free))
        .values(attempt=WebhookDelivery.attempt + 1, due_at=func.now() + lease)
        .returning(WebhookDelivery)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).all()
    return [_sending(session.get_one(WebhookEndpoint, row.endpoint_id), row) for row in taken]


def record(session: Session, sent: Sending, outcome: Outcome) -> None:
    """Write down what an attempt came to, and when the next one is due, if there is to be one."""
    delivery = session.get(WebhookDelivery, sent.id, with_for_update=True)
    # Deleted meanwhile, or believed lost and sent by another.
    if delivery is None or delivery.status != "pending" or delivery.attempt != sent.attempt:
        return
    now = utc_now()
    told = {
        "at": now.isoformat().replace("+00:00", "Z"),
        "status": outcome.status,
        "milliseconds": outcome.milliseconds,
        "error": outcome.error,
        "answer": outcome.answer,
    }
    delivery.attempts = [*delivery.attempts, told][-MAX_ATTEMPTS_KEPT:]
    if outcome.succeeded:
        delivery.status, delivery.due_at, delivery.delivered_at = "delivered", None, now
    elif outcome.status == GONE:
        delivery.status, delivery.due_at = "failed", None
        # Another job's own address may well be there.
        if delivery.url is None:
            _disable(session, delivery.endpoint_id, "it answered 410 Gone")
    elif delivery.attempt <= len(PAUSES):
        pause = PAUSES[delivery.attempt - 1] * (1 + JITTER * random.random())
        delivery.due_at = now + timedelta(seconds=pause)
    else:
        delivery.status, delivery.due_at = "failed", None
        if delivery.url is None and not _reached_since(session, delivery):
            days = (now - delivery.created_at).days
            _disable(session, delivery.endpoint_id, f"nothing has reached it for {days} days")
    session.flush()


def prune(session: Session) -> int:
    """Forget deliveries that are older than they are kept; how many."""
    kept = timedelta(seconds=get_settings().webhook_keep_seconds)
    old = (
        select(WebhookDelivery.id)
        .where(WebhookDelivery.created_at < func.now() - kept)
        .limit(PRUNED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    gone = delete(WebhookDelivery).where(WebhookDelivery.id.in_(old.scalar_subquery()))
    return len(session.scalars(gone.returning(WebhookDelivery.id)).all())


def _sending(endpoint: WebhookEndpoint, delivery: WebhookDelivery) -> Sending:
    secrets = [endpoint.secret]
    until = endpoint.previous_until
    if endpoint.previous_secret is not None and until is not None and until > utc_now():
        secrets.append(endpoint.previous_secret)
    url = delivery.url or endpoint.url
    assert url is not None, "a delivery of the default endpoint has an address of its own"
    return Sending(
        id=delivery.id,
        attempt=delivery.attempt,
        endpoint_id=endpoint.id,
        url=url,
        body=delivery.body,
        secrets=tuple(secrets),
    )


def _disable(session: Session, endpoint_id: str, reason: str) -> None:
    session.execute(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.disabled_at.is_(None))
        .values(disabled_at=func.now(), disabled_reason=reason)
    )


def _reached_since(session: Session, delivery: WebhookDelivery) -> bool:
    return (
        session.scalar(
            select(WebhookDelivery.id)
            .where(
                WebhookDelivery.endpoint_id == delivery.endpoint_id,
                WebhookDelivery.delivered_at > delivery.created_at,
            )
            .limit(1)
        )
        is not None
    )
