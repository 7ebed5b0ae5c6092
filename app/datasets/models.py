"""Datasets, their images with captions, and the jobs that fill them in."""

from datetime import datetime
from typing import Literal

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, CreatedAt, JsonObject
from app.trainings.params import Task

CaptionSource = Literal["hand", "auto"]
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


class Ingest(Base):
    """Detail of an ingest job: measure and thumbnail what an upload brought."""

    __tablename__ = "ingests"

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(
        ForeignKey("datasets.id", ondelete="CASCADE"), index=True
    )


class Captioning(Base):
    """Detail of a captioning job."""

    __tablename__ = "captionings"

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(
        ForeignKey("datasets.id", ondelete="CASCADE"), index=True
    )
    captioner: Mapped[str] = mapped_column(String(64))
    overwrite: Mapped[Overwrite] = mapped_column(String(10))
    images_captioned: Mapped[int] = mapped_column(Integer, default=0)
