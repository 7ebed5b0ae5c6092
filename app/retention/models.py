"""Objects that no row refers to any more: their keys wait here until the sweeper removes them."""

from datetime import datetime

from sqlalchemy import Index, String, func
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base


class DoomedObject(Base):
    """A stored object to be removed, unless a row turns out to need it."""

    __tablename__ = "doomed_objects"
    __table_args__ = (Index("ix_doomed_objects_due", "look_at"),)

    object_key: Mapped[str] = mapped_column(String(300), primary_key=True)
    # Not a foreign key: an account's objects outlive its row.
    account_id: Mapped[str] = mapped_column(String(40))
    look_at: Mapped[datetime] = mapped_column(server_default=func.now())
