"""The first answers to requests that a client may send again."""

from sqlalchemy import ForeignKey, Index, LargeBinary, SmallInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, CreatedAt, JsonObject


class IdempotencyRecord(CreatedAt, Base):
    """What a request with an `Idempotency-Key` was, and what it was answered."""

    __tablename__ = "idempotency_records"
    __table_args__ = (Index("ix_idempotency_records_age", "created_at"),)

    account_id: Mapped[str] = mapped_column(
        ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    # SHA-256 of method, path, query and body; hex.
    fingerprint: Mapped[str] = mapped_column(String(64))
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[JsonObject]
    body: Mapped[bytes] = mapped_column(LargeBinary)
