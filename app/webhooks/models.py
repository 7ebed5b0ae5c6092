"""Where an account wants to hear of its jobs, and what is on its way there."""

from datetime import datetime
from typing import Literal

from sqlalchemy import ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, CreatedAt, JsonObject

DeliveryStatus = Literal["pending", "delivered", "failed"]


class WebhookEndpoint(CreatedAt, Base):
    """An address and the secret that signs what is sent there.

    The one without an address is the account's own: its secret signs what is sent to the `webhook`
    of single jobs.
    """

    __tablename__ = "webhook_endpoints"
    __table_args__ = (
        Index("ix_webhook_endpoints_account", "account_id", text("id DESC")),
        Index(
            "uq_webhook_endpoints_default",
            "account_id",
            unique=True,
            postgresql_where=text("url IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    url: Mapped[str | None] = mapped_column(String(2000))
    description: Mapped[str] = mapped_column(String(500), default="")
    # `training.succeeded`, `training.*` or `*`.
    events: Mapped[list[str]]
    # `whsec_` and base64; kept as it is, for it must sign.
    secret: Mapped[str] = mapped_column(String(100))
    # The secret before the last rotation signs besides until then.
    previous_secret: Mapped[str | None] = mapped_column(String(100))
    previous_until: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None] = mapped_column(String(500))


class WebhookDelivery(CreatedAt, Base):
    """One message to one address, written in the transaction that makes it true.

    `due_at` is when to send it, and while it is being sent when to believe its sender lost.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index(
            "ix_webhook_deliveries_due",
            "endpoint_id",
            "due_at",
            postgresql_where=text("status = 'pending'"),
        ),
        Index("ix_webhook_deliveries_endpoint", "endpoint_id", text("id DESC")),
        Index("ix_webhook_deliveries_created", "created_at"),
    )

    # What `webhook-id` says at every attempt.
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    # The job's own address; else the endpoint's is used, as it is when it is sent.
    url: Mapped[str | None] = mapped_column(String(2000))
    event: Mapped[str] = mapped_column(String(60))
    object_id: Mapped[str | None] = mapped_column(String(40))
    # The body, byte for byte, so that every attempt carries the same.
    body: Mapped[str] = mapped_column(Text)
    status: Mapped[DeliveryStatus] = mapped_column(String(12), default="pending")
    due_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    # Each: at, status, milliseconds, error, answer.
    attempts: Mapped[list[JsonObject]] = mapped_column(default=list)
