"""What accounts have used: counted by day as jobs end, so that no question reads a million rows."""

from dataclasses import dataclass
from datetime import UTC, date

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.accounts.models import UsageDay
from app.database import utc_now

# Objects are counted where they are told of; two rows of one picture, as two.
_STORED = text("""
    SELECT 'images' AS what, coalesce(sum(images.bytes), 0) AS bytes
        FROM images JOIN datasets ON datasets.id = images.dataset_id
        WHERE datasets.account_id = :account_id
    UNION ALL SELECT 'loras', coalesce(sum(bytes), 0) FROM loras WHERE account_id = :account_id
    UNION ALL SELECT 'inputs', coalesce(sum(bytes), 0)
        FROM input_images WHERE account_id = :account_id
    UNION ALL SELECT 'checkpoints', coalesce(sum(checkpoints.bytes), 0)
        FROM checkpoints JOIN jobs ON jobs.id = checkpoints.training_id
        WHERE jobs.account_id = :account_id
    UNION ALL SELECT 'generated', coalesce(sum(generated_images.bytes), 0)
        FROM generated_images JOIN jobs ON jobs.id = generated_images.generation_id
        WHERE jobs.account_id = :account_id
""")


@dataclass(frozen=True)
class DayOfKind:
    """One line of a usage report."""

    day: date
    kind: str
    jobs: int
    gpu_seconds: float
    images: int


def meter(
    session: Session, account_id: str, kind: str, *, gpu_seconds: float, jobs: int, images: int
) -> None:
    """Add what an attempt has taken to its account's day.

    Args:
        jobs: 1 where the attempt has ended its job, else 0.
        images: pictures that it has published.
    """
    if not (gpu_seconds or jobs or images):
        return
    statement = insert(UsageDay).values(
        account_id=account_id,
        day=today(),
        kind=kind,
        jobs=jobs,
        gpu_seconds=gpu_seconds,
        images=images,
    )
    added = {
        name: getattr(UsageDay, name) + statement.excluded[name]
        for name in ("jobs", "gpu_seconds", "images")
    }
    session.execute(
        statement.on_conflict_do_update(index_elements=["account_id", "day", "kind"], set_=added)
    )


def by_day(session: Session, account_id: str, first: date, last: date) -> list[DayOfKind]:
    """The days from `first` to `last`, both included, on which something was used; oldest first."""
    rows = session.scalars(
        select(UsageDay)
        .where(UsageDay.account_id == account_id, UsageDay.day.between(first, last))
        .order_by(UsageDay.day, UsageDay.kind)
    )
    return [DayOfKind(row.day, row.kind, row.jobs, row.gpu_seconds, row.images) for row in rows]


def gpu_seconds_this_month(session: Session, account_id: str) -> float:
    """GPU seconds since the month began, UTC."""
    total = session.scalar(
        select(func.coalesce(func.sum(UsageDay.gpu_seconds), 0.0)).where(
            UsageDay.account_id == account_id, UsageDay.day >= today().replace(day=1)
        )
    )
    return float(total or 0.0)


def stored_bytes(session: Session, account_id: str) -> dict[str, int]:
    """Bytes stored now, by what they are."""
    rows = session.execute(_STORED, {"account_id": account_id})
    return {row.what: int(row.bytes) for row in rows}


def today() -> date:
    """The day, UTC, to which usage is counted now."""
    return utc_now().astimezone(UTC).date()
