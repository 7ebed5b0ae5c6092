"""What is at work, over all accounts."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.jobs.models import Job


def jobs_at_work(session: Session, account_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Of each account, how many jobs are `queued` and `running` now."""
    found: dict[str, dict[str, int]] = {}
    rows = session.execute(
        select(Job.account_id, Job.status, func.count())
        .where(Job.account_id.in_(account_ids), Job.status.in_(("queued", "running")))
        .group_by(Job.account_id, Job.status)
    )
    for account_id, status, count in rows:
        found.setdefault(account_id, {})[status] = count
    return found
