"""Generations and the pictures they made."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, CreatedAt, JsonObject


class Generation(Base):
    """Detail of a generation job: the request with every default filled in."""

    __tablename__ = "generations"

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    base_model: Mapped[str] = mapped_column(String(64))
    # prompt, negative_prompt, width, height, steps, guidance_scale, scheduler, seed, num_images, …
    request: Mapped[JsonObject]
    # Each: lora, weight, name, sha256, object_key; frozen, so that a deleted LoRA changes nothing.
    loras: Mapped[list[JsonObject]]
    # Each: lora, matched, unmatched; written when the job ends.
    lora_reports: Mapped[list[JsonObject]]
    # What made the pictures: hashes, parameters, library versions.
    receipt: Mapped[JsonObject | None]


class InputImage(CreatedAt, Base):
    """A picture a customer has sent to start from, or a mask."""

    __tablename__ = "input_images"
    __table_args__ = (
        Index("ix_input_images_account", "account_id", text("id DESC")),
        Index(
            "ix_input_images_expires",
            "expires_at",
            postgresql_where=text("expires_at IS NOT NULL AND gone_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    object_key: Mapped[str] = mapped_column(String(300), index=True)
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    # If it is kept for a while only: until when, and since when its bytes are gone.
    expires_at: Mapped[datetime | None]
    gone_at: Mapped[datetime | None]


class GeneratedImage(CreatedAt, Base):
    """One picture; number `index` of its generation."""

    __tablename__ = "generated_images"

    generation_id: Mapped[str] = mapped_column(
        ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True
    )
    index: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    seed: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    format: Mapped[str] = mapped_column(String(10))
    object_key: Mapped[str] = mapped_column(String(300))
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
