"""The worker processes that are alive, and what operators have ordered them to do."""

from datetime import datetime
from typing import Literal

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base

# `hold`: claim nothing more. `hand_back`: also save and give back what runs, as a stop does.
Order = Literal["hold", "hand_back"]


class Worker(Base):
    """One process that runs jobs, by its own word; see `jobs.worker_id` for what it holds."""

    __tablename__ = "workers"

    # `host:pid`, as in `jobs.worker_id`.
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    queues: Mapped[list[str]]
    version: Mapped[str] = mapped_column(String(40))
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    # Null until the first job needs one.
    device: Mapped[str | None] = mapped_column(String(200))
    gpu_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    gpu_memory_free_bytes: Mapped[int | None] = mapped_column(BigInteger)
    order: Mapped[Order | None] = mapped_column(String(12))
