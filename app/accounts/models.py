"""Accounts, and the API keys that act for them."""

from datetime import date, datetime

from sqlalchemy import ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.database import Base, CreatedAt, JsonObject


class Account(CreatedAt, Base):
    """Who owns datasets, jobs and LoRAs."""

    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    # Quotas that differ from the settings', by name; null is without limit. See `quotas.py`.
    limits: Mapped[JsonObject] = mapped_column(default=dict, server_default="{}")
    # `customer`, or `admin`: an operator, whose keys may have the scope of that name.
    role: Mapped[str] = mapped_column(String(20), default="customer", server_default="customer")
    # From then on its keys are refused and its waiting jobs stay where they are.
    suspended_at: Mapped[datetime | None]
    suspended_reason: Mapped[str | None] = mapped_column(String(500))


class UsageDay(Base):
    """What an account's jobs of one kind took on one day, UTC; it outlives the jobs."""

    __tablename__ = "usage_days"

    account_id: Mapped[str] = mapped_column(
        ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True
    )
    day: Mapped[date] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    # Those that ended, however they did.
    jobs: Mapped[int] = mapped_column(Integer)
    gpu_seconds: Mapped[float]
    # Pictures of those that succeeded.
    images: Mapped[int] = mapped_column(Integer)


class ApiKey(CreatedAt, Base):
    """A bearer secret, of which only the hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    # The first characters, so that a person can tell keys apart.
    prefix: Mapped[str] = mapped_column(String(20))
    # SHA-256, hex. The secret has 256 random bits, so a slow hash would protect nothing.
    secret_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]]
    last_used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    # The secret before the last rotation works until then.
    previous_sha256: Mapped[str | None] = mapped_column(String(64), unique=True)
    previous_until: Mapped[datetime | None]

    account: Mapped[Account] = relationship(lazy="joined")
