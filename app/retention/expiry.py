"""What is kept for a while only: its rows are let go here, its objects by the sweeper."""

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.jobs.models import Job
from app.retention.service import doom
from app.settings import get_settings
from app.trainings.models import Training

BATCH = 100


def let_go_of_states(session: Session) -> int:
    """Forget the saved states of trainings that ended so long ago that no retry is expected.

    How many; those of succeeded trainings went with their end.
    """
    kept = timedelta(seconds=get_settings().training_state_keep_seconds)
    rows = session.execute(
        select(Training, Job.account_id)
        .join(Job, Job.id == Training.id)
        .where(Training.state.is_not(None), Job.ended_at < func.now() - kept)
        .limit(BATCH)
        .with_for_update(of=Training, skip_locked=True)
    ).all()
    for training, account_id in rows:
        drop_state(session, account_id, training)
    return len(rows)


def drop_state(session: Session, account_id: str, training: Training) -> None:
    """Forget a training's saved state; a retry that began from it still has its files."""
    if training.state is not None:
        doom(session, account_id, training.state["files"].values())
        training.state = None
