"""Webhooks on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool

from app.web.text import PlainText
from app.webhooks.models import DeliveryStatus
from app.webhooks.names import PATTERNS

MAX_OVERLAP_SECONDS = 7 * 24 * 3600


def _known(event: str) -> str:
    if event not in PATTERNS:
        raise ValueError(
            f"no event {event!r}; there are '*', '<kind>.*' and '<kind>.<status>', such as "
            "'training.succeeded'"
        )
    return event


Event = Annotated[str, Field(max_length=60), AfterValidator(_known)]
Events = Annotated[list[Event], Field(min_length=1, max_length=50)]
# What it may be is checked with what its name resolves to, see `addresses.py`.
Url = Annotated[PlainText, Field(min_length=1, max_length=2000)]


class WebhookCreate(BaseModel):
    """Where to send, and what of."""

    model_config = ConfigDict(extra="forbid")

    url: Url
    events: Events
    description: PlainText = Field(default="", max_length=500)


class WebhookPatch(BaseModel):
    """What is given, and not null, is changed."""

    model_config = ConfigDict(extra="forbid")

    url: Url | None = None
    events: Events | None = None
    description: PlainText | None = Field(default=None, max_length=500)
    disabled: StrictBool | None = None


class WebhookRotate(BaseModel):
    """How an endpoint changes its secret."""

    model_config = ConfigDict(extra="forbid")

    # How long the secret before signs besides the new one.
    overlap_seconds: int = Field(default=24 * 3600, ge=0, le=MAX_OVERLAP_SECONDS)


class WebhookRead(BaseModel):
    """An endpoint; the one without URL signs for the `webhook` of single jobs."""

    id: str
    object: Literal["webhook"] = "webhook"
    url: str | None
    events: list[str]
    description: str
    created_at: datetime
    disabled_at: datetime | None
    disabled_reason: str | None
    # Until then the secret before the last rotation signs too.
    previous_until: datetime | None


class WebhookMade(WebhookRead):
    """The only answer that ever shows the secret."""

    # `whsec_…`; null where an earlier request with the same Idempotency-Key is answered again.
    secret: str | None


class AttemptRead(BaseModel):
    """One attempt; `status` is null where there was no answer."""

    at: datetime
    status: int | None
    milliseconds: int
    error: str | None
    # Its first kilobyte.
    answer: str


class DeliveryOverview(BaseModel):
    """One message in a list; its id is what `webhook-id` says."""

    id: str
    object: Literal["webhook_delivery"] = "webhook_delivery"
    event: str
    object_id: str | None
    status: DeliveryStatus
    attempts_made: int
    # When it is sent next.
    due_at: datetime | None
    delivered_at: datetime | None
    created_at: datetime


class DeliveryRead(DeliveryOverview):
    """One message with its body and what became of each attempt."""

    url: str
    body: dict[str, Any]
    attempts: list[AttemptRead]
