"""The registry of LoRAs."""

from typing import Literal

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, CreatedAt, JsonObject


class Lora(CreatedAt, Base):
    """A published LoRA file, stored in kohya layout."""

    __tablename__ = "loras"
    __table_args__ = (Index("ix_loras_account", "account_id", text("id DESC")),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text, default="")
    trigger_word: Mapped[str | None] = mapped_column(String(100))
    default_weight: Mapped[float] = mapped_column(default=1.0)
    base_model: Mapped[str] = mapped_column(String(64))
    architecture: Mapped[str] = mapped_column(String(64))
    source: Mapped[Literal["training", "upload", "tool"]] = mapped_column(String(10))
    training_id: Mapped[str | None] = mapped_column(
        ForeignKey("trainings.id", ondelete="SET NULL"), index=True
    )
    checkpoint_id: Mapped[str | None] = mapped_column(
        ForeignKey("checkpoints.id", ondelete="SET NULL")
    )
    rank: Mapped[int] = mapped_column(Integer)
    alpha: Mapped[float]
    object_key: Mapped[str] = mapped_column(String(300), index=True)
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    # Of the stored file: kohya, diffusers, peft or other.
    layout: Mapped[str] = mapped_column(String(10), default="kohya")
    # The file's own, `ss_*` and `modelspec.*`.
    file_metadata: Mapped[JsonObject]
    # What the check of the file found, see `LoraFileReport`; empty of one that was published from
    # a checkpoint by request.
    report: Mapped[JsonObject] = mapped_column(default=dict)


class LoraFile(CreatedAt, Base):
    """The same LoRA in another layout, made when it was first asked for."""

    __tablename__ = "lora_files"

    lora_id: Mapped[str] = mapped_column(
        ForeignKey("loras.id", ondelete="CASCADE"), primary_key=True
    )
    layout: Mapped[str] = mapped_column(String(10), primary_key=True)
    object_key: Mapped[str] = mapped_column(String(300), index=True)
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)


class LoraTool(Base):
    """Detail of a lora_tool job: convert, resize, merge or extract."""

    __tablename__ = "lora_tools"

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    operation: Mapped[Literal["convert", "resize", "merge", "extract"]] = mapped_column(String(10))
    # The request with every default filled in, and its inputs' object keys and hashes.
    request: Mapped[JsonObject]
    # What the operation measured, e.g. the error of a resize; None until it has ended.
    report: Mapped[JsonObject | None]
    # The LoRA it made; a conversion makes none, but a file of its LoRA.
    lora_id: Mapped[str | None] = mapped_column(
        ForeignKey("loras.id", ondelete="SET NULL"), index=True
    )
