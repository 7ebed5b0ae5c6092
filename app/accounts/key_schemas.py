"""API keys on the wire."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from app.accounts.keys import CUSTOMER_SCOPES, Scope
from app.web.text import PlainText

MAX_OVERLAP_SECONDS = 7 * 24 * 3600
Scopes = Annotated[list[Scope], Field(min_length=1, max_length=4)]


class ApiKeyCreate(BaseModel):
    """A key can give no scope that it does not have."""

    model_config = ConfigDict(extra="forbid")

    name: PlainText = Field(min_length=1, max_length=200)
    scopes: Scopes = list(CUSTOMER_SCOPES)
    # Without it, the key works until it is revoked.
    expires_at: AwareDatetime | None = None


class ApiKeyRotate(BaseModel):
    """How a key changes its secret."""

    model_config = ConfigDict(extra="forbid")

    # How long the secret before works besides the new one.
    overlap_seconds: int = Field(default=0, ge=0, le=MAX_OVERLAP_SECONDS)


class ApiKeyRead(BaseModel):
    """A key as its account sees it."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    # The first characters of its secret.
    prefix: str
    scopes: list[Scope]
    created_at: datetime
    # Exact to a minute.
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    # Until then the secret before the last rotation works too.
    previous_until: datetime | None


class ApiKeyMade(ApiKeyRead):
    """The only answer that ever shows the secret."""

    # Null where an earlier request with the same Idempotency-Key is answered again.
    secret: str | None
