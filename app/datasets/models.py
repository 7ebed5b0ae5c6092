"""Datasets, their images with captions, and the jobs that fill them in."""

from datetime import datetime
from typing import Literal

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, CreatedAt, JsonObject
from app.trainings.params import Task

CaptionSource = Literal["hand", "auto"]
UploadStage = Literal["receiving", "received", "aborted", "expired"]
Overwrite = Literal["missing", "auto", "all"]


class Dataset(CreatedAt, Base):
    """A folder of pictures that will become a LoRA."""

    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_account", "account_id", text("id DESC")),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    name: Mapped[str] = mapped_column(String(200))
    task: Mapped[Task] = mapped_column(String(20))
    trigger_word: Mapped[str] = mapped_column(String(100))
    caption_template: Mapped[str] = mapped_column(String(500))


class Image(CreatedAt, Base):
    """One picture. Its bytes are stored once an account, under their own hash."""

    __tablename__ = "images"
    __table_args__ = (
        UniqueConstraint("dataset_id", "sha256"),
        Index("ix_images_dataset", "dataset_id", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    filename: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64))
    object_key: Mapped[str] = mapped_column(String(300), index=True)
    thumbnail_key: Mapped[str | None] = mapped_column(String(300), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    # As seen upright: EXIF orientation is applied before measuring.
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    format: Mapped[str] = mapped_column(String(10))
    caption: Mapped[str | None] = mapped_column(Text)
    # What the captioner said, before the template; None for captions written by hand.
    raw_caption: Mapped[str | None] = mapped_column(Text)
    caption_source: Mapped[CaptionSource | None] = mapped_column(String(10))
    # How often an epoch shows it; None leaves it to the training.
    repeats: Mapped[int | None] = mapped_column(Integer)
    excluded: Mapped[bool] = mapped_column(default=False)
    # Measurements of the ingest job; None until it has run.
    measures: Mapped[JsonObject | None]
    measured_at: Mapped[datetime | None]


class Upload(CreatedAt, Base):
    """An archive that comes straight to storage, in parts.

    receiving ──complete──▶ received, and its ingest job tells the rest
        └──▶ aborted | expired
    """

    __tablename__ = "uploads"
    __table_args__ = (
        Index("ix_uploads_account", "account_id", text("id DESC")),
        Index("ix_uploads_unsettled", "expires_at", postgresql_where=text("NOT object_gone")),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    dataset_id: Mapped[str] = mapped_column(
        ForeignKey("datasets.id", ondelete="CASCADE"), index=True
    )
    filename: Mapped[str] = mapped_column(String(255))
    # As the client told them before it sent anything.
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    part_bytes: Mapped[int] = mapped_column(BigInteger)
    object_key: Mapped[str] = mapped_column(String(300), index=True)
    # The store's own name for it.
    store_upload_id: Mapped[str] = mapped_column(Text)
    stage: Mapped[UploadStage] = mapped_column(String(10), default="receiving")
    # After this, one that is still being received is aborted.
    expires_at: Mapped[datetime]
    # Whether neither parts nor archive are in storage any more, or they are doomed.
    object_gone: Mapped[bool] = mapped_column(default=False)
    # What became of each file; None until the archive was unpacked.
    report: Mapped[list[JsonObject] | None]


class Ingest(Base):
    """Detail of an ingest job: measure and thumbnail what an upload brought, or unpack it first."""

    __tablename__ = "ingests"

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(
        ForeignKey("datasets.id", ondelete="CASCADE"), index=True
    )
    # The archive to unpack; None where the API has done that.
    upload_id: Mapped[str | None] = mapped_column(
        ForeignKey("uploads.id", ondelete="CASCADE"), index=True
    )


class Captioning(Base):
    """Detail of a captioning job."""

    __tablename__ = "captionings"

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    # The dataset may be deleted later.
    dataset_id: Mapped[str | None] = mapped_column(
        ForeignKey("datasets.id", ondelete="SET NULL"), index=True
    )
    captioner: Mapped[str] = mapped_column(String(64))
    overwrite: Mapped[Overwrite] = mapped_column(String(10))
    images_captioned: Mapped[int] = mapped_column(Integer, default=0)
