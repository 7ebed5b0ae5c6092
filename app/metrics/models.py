"""What the sweeper keeps for those who watch: how jobs have ended, and when it last was there."""

from datetime import datetime

from sqlalchemy import BigInteger, SmallInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base


class JobTotal(Base):
    """All jobs of a kind that ever ended in one way. Counters, so nothing here ever falls."""

    __tablename__ = "job_totals"

    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    status: Mapped[str] = mapped_column(String(12), primary_key=True)
    # Empty where there was no error.
    error_code: Mapped[str] = mapped_column(String(60), primary_key=True)
    jobs: Mapped[int] = mapped_column(BigInteger)
    gpu_seconds: Mapped[float]
    # From the first start to the end, and from the submission to the first start.
    run_seconds: Mapped[float]
    wait_seconds: Mapped[float]


class Sweeper(Base):
    """The one row of the sweeper."""

    __tablename__ = "sweeper"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    # When a sweep last came to its end.
    swept_at: Mapped[datetime | None]
    # Jobs that ended until then are in the totals.
    counted_until: Mapped[datetime]
