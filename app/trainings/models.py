"""Trainings, their metrics and their checkpoints."""

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, CreatedAt, JsonObject


class Training(Base):
    """Detail of a training job. The spec is frozen at submission: what made this LoRA."""

    __tablename__ = "trainings"
    __table_args__ = (
        # States are let go some time after the end; few trainings have one.
        Index("ix_trainings_state", "id", postgresql_where=text("state IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    # The dataset may be deleted later; the spec keeps what was used of it.
    dataset_id: Mapped[str | None] = mapped_column(
        ForeignKey("datasets.id", ondelete="SET NULL"), index=True
    )
    name: Mapped[str] = mapped_column(String(200))
    base_model: Mapped[str] = mapped_column(String(64))
    preset: Mapped[str] = mapped_column(String(20))
    spec: Mapped[JsonObject]
    warnings: Mapped[list[str]]
    # The newest state that another worker can go on from: attempt, step and object keys.
    state: Mapped[JsonObject | None]
    # The training that this one goes on from.
    retry_of: Mapped[str | None] = mapped_column(String(40))


class TrainingMetric(Base):
    """One optimizer step. A resumed attempt writes the same values over the same steps."""

    __tablename__ = "training_metrics"

    training_id: Mapped[str] = mapped_column(
        ForeignKey("trainings.id", ondelete="CASCADE"), primary_key=True
    )
    step: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(Integer)
    loss: Mapped[float | None]
    validation_loss: Mapped[float | None]
    base_validation_loss: Mapped[float | None]
    prior_drift: Mapped[float | None]
    lr: Mapped[float | None]
    grad_norm: Mapped[float | None]
    images_per_second: Mapped[float | None]
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)


class Checkpoint(CreatedAt, Base):
    """A LoRA file saved along the way."""

    __tablename__ = "checkpoints"
    __table_args__ = (
        UniqueConstraint("training_id", "step"),
        Index("ix_checkpoints_training", "training_id", "step"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    training_id: Mapped[str] = mapped_column(ForeignKey("trainings.id", ondelete="CASCADE"))
    epoch: Mapped[int] = mapped_column(Integer)
    step: Mapped[int] = mapped_column(Integer)
    validation_loss: Mapped[float | None]
    base_validation_loss: Mapped[float | None]
    prior_drift: Mapped[float | None]
    recommended: Mapped[bool] = mapped_column(default=False)
    object_key: Mapped[str] = mapped_column(String(300))
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    # The file's own, `ss_*` and `modelspec.*`.
    file_metadata: Mapped[JsonObject]
    # Each: prompt, seed, object_key.
    samples: Mapped[list[JsonObject]]
