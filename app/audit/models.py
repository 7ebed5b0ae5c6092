"""Who did what to whose objects."""

from sqlalchemy import Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, CreatedAt, JsonObject


class AuditEntry(CreatedAt, Base):
    """One act, written in the transaction that does it; entries are never changed.

    Nothing here is a foreign key: an entry outlives what it tells of.
    """

    __tablename__ = "audit_entries"
    __table_args__ = (
        Index("ix_audit_entries_created", "created_at"),
        Index("ix_audit_entries_account", "account_id", text("id DESC")),
        Index("ix_audit_entries_action", "action", text("id DESC")),
        Index("ix_audit_entries_object", "object_id", text("id DESC")),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    # Whose object it was; null of the service's own.
    account_id: Mapped[str | None] = mapped_column(String(40))
    # `api`, `cli` or `service`; of the API, the account and key that asked.
    actor: Mapped[str] = mapped_column(String(20))
    actor_account_id: Mapped[str | None] = mapped_column(String(40))
    actor_key_id: Mapped[str | None] = mapped_column(String(40))
    request_id: Mapped[str | None] = mapped_column(String(100))
    # `<object>.<verb>`, such as `api_key.revoke`.
    action: Mapped[str] = mapped_column(String(60))
    object_id: Mapped[str | None] = mapped_column(String(80))
    # What is different now, by name; of a change, [before, after].
    changes: Mapped[JsonObject]
