"""The tables every job has: its row, and its append-only story.

queued ──claim──▶ running ──finish──▶ succeeded | failed | canceled
   ▲                 │
   └──lease expired, or released by a stopping worker
"""

from datetime import datetime
from typing import Literal, get_args

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    Text,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, CreatedAt, JsonObject

JobKind = Literal["ingest", "captioning", "training", "generation", "comparison", "lora_tool"]
JobStatus = Literal["queued", "running", "succeeded", "failed", "canceled"]
TERMINAL: frozenset[JobStatus] = frozenset({"succeeded", "failed", "canceled"})
EventType = Literal["status", "progress", "metrics", "sample", "checkpoint", "log"]


class Job(CreatedAt, Base):
    """One piece of work. Its detail row (captioning, training, …) has the same id.

    `attempt` is the fence: it grows with every claim and never falls, so a worker that lost its
    lease can match nothing. `failures` counts only the attempts that count against the job, so a
    worker stopped in good order costs it nothing.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(
            "status IN ({})".format(", ".join(f"'{s}'" for s in get_args(JobStatus))),
            name="status",
        ),
        # What a claim looks for: the head of one account's line at a queue.
        Index(
            "ix_jobs_waiting",
            "queue",
            "account_id",
            "priority",
            "created_at",
            "id",
            postgresql_where=text("status = 'queued'"),
        ),
        Index(
            "ix_jobs_deadline",
            "deadline_at",
            postgresql_where=text("status = 'queued' AND deadline_at IS NOT NULL"),
        ),
        # Fair share counts these, and the sweeper looks among them for those whose lease ran out.
        # The lease itself is in no index, so that a heartbeat writes to none.
        Index("ix_jobs_running", "account_id", postgresql_where=text("status = 'running'")),
        # Lists, newest first.
        Index("ix_jobs_account", "account_id", text("created_at DESC"), text("id DESC")),
        Index("ix_jobs_newest", text("created_at DESC"), text("id DESC")),
        Index(
            "ix_jobs_pictures_expire",
            "pictures_expire_at",
            postgresql_where=text("pictures_expire_at IS NOT NULL AND pictures_gone_at IS NULL"),
        ),
        # What failed lately, and how many end.
        Index("ix_jobs_ended", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
        # Waiting jobs that could run in one batch with a claimed one, oldest first.
        Index(
            "ix_jobs_batch",
            "queue",
            "batch_key",
            "created_at",
            postgresql_where=text("status = 'queued' AND batch_key IS NOT NULL"),
        ),
        # Running jobs change often: room on a page lets them change in place.
        {"postgresql_with": {"fillfactor": 80}},
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[JobKind] = mapped_column(String(20))
    queue: Mapped[str] = mapped_column(String(20))
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    status: Mapped[JobStatus] = mapped_column(String(12), default="queued")
    priority: Mapped[int] = mapped_column(SmallInteger, default=0)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    max_attempts: Mapped[int] = mapped_column(Integer)
    # Jobs of one queue with the same key may run together; None runs alone.
    batch_key: Mapped[str | None] = mapped_column(String(64))
    # How many of a batch's places it takes: pictures.
    batch_size: Mapped[int] = mapped_column(SmallInteger, default=1)
    # What a worker must have at hand for it: a base model, and LoRAs at their weights.
    base_model: Mapped[str | None] = mapped_column(String(64))
    recipe: Mapped[str | None] = mapped_column(String(64))
    # How often a later job of its line went first because a worker had that one's at hand.
    passed_over: Mapped[int] = mapped_column(SmallInteger, default=0)
    worker_id: Mapped[str | None] = mapped_column(String(200))
    lease_expires_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    # Deleted by its customer: nothing is left of it but this row, for what it has cost.
    deleted_at: Mapped[datetime | None]

    progress_fraction: Mapped[float] = mapped_column(default=0.0)
    progress_step: Mapped[int | None] = mapped_column(Integer)
    progress_total_steps: Mapped[int | None] = mapped_column(Integer)
    progress_stage: Mapped[str | None] = mapped_column(String(40))
    progress_eta_s: Mapped[float | None]

    error_code: Mapped[str | None] = mapped_column(String(60))
    error_message: Mapped[str | None] = mapped_column(Text)
    error_retryable: Mapped[bool | None]

    gpu_seconds: Mapped[float] = mapped_column(default=0.0)
    # Of a generation or comparison, if its pictures are kept for a while only.
    pictures_expire_at: Mapped[datetime | None]
    pictures_gone_at: Mapped[datetime | None]
    # Told of every change of status, besides the account's webhooks.
    webhook_url: Mapped[str | None] = mapped_column(String(2000))
    event_seq: Mapped[int] = mapped_column(Integer, default=0)
    request_id: Mapped[str | None] = mapped_column(String(100))
    # The span of the submission (W3C trace context), which the worker's go on from.
    traceparent: Mapped[str | None] = mapped_column(String(55))
    # The client's own string pairs; `metadata` is a word SQLAlchemy keeps for itself.
    labels: Mapped[JsonObject] = mapped_column("metadata", default=dict)


class JobLine(Base):
    """An account's line at a queue: whether somebody waits in it, and when it last had its turn."""

    __tablename__ = "job_lines"
    # Served lines change often and are few: half-filled pages let them change in place.
    __table_args__ = {"postgresql_with": {"fillfactor": 50}}  # noqa: RUF012

    queue: Mapped[str] = mapped_column(String(20), primary_key=True)
    account_id: Mapped[str] = mapped_column(
        ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True
    )
    priority: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    waiting: Mapped[bool]
    # By the clock, not by the transaction's start: two claims in one transaction have an order.
    opened_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    served_at: Mapped[datetime | None]


class JobEvent(CreatedAt, Base):
    """One line of a job's story. `seq` runs 1, 2, 3, … within the job, without gaps."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    type: Mapped[EventType] = mapped_column(String(20))
    payload: Mapped[JsonObject]
