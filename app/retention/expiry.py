"""What is kept for a while only: its rows are let go here, its objects by the sweeper."""

from datetime import timedelta

from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from app.database import utc_now
from app.generations.models import InputImage
from app.jobs.models import Job
from app.retention.service import doom
from app.settings import get_settings
from app.trainings.models import Training

BATCH = 100
_PICTURES = text("""
    SELECT object_key FROM generated_images WHERE generation_id = :id
    UNION SELECT sheet_key FROM comparisons WHERE id = :id AND sheet_key IS NOT NULL
    UNION SELECT image ->> 'object_key'
        FROM comparisons CROSS JOIN LATERAL jsonb_array_elements(images) AS image
        WHERE id = :id
""")


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


def let_go_of_pictures(session: Session) -> int:
    """Doom the pictures of generations and comparisons whose time is over; of how many jobs."""
    due = session.execute(
        select(Job.id, Job.account_id)
        .where(Job.pictures_expire_at < func.now(), Job.pictures_gone_at.is_(None))
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    for job_id, account_id in due:
        doom(session, account_id, session.scalars(_PICTURES, {"id": job_id}))
    gone = update(Job).where(Job.id.in_([row.id for row in due]))
    session.execute(gone.values(pictures_gone_at=func.now()))
    return len(due)


def let_go_of_inputs(session: Session) -> int:
    """Doom the pictures that were sent to start from and whose time is over; how many."""
    rows = session.scalars(
        select(InputImage)
        .where(InputImage.expires_at < func.now(), InputImage.gone_at.is_(None))
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    ).all()
    for image in rows:
        doom(session, image.account_id, [image.object_key])
        image.gone_at = utc_now()
    session.flush()
    return len(rows)


def drop_state(session: Session, account_id: str, training: Training) -> None:
    """Forget a training's saved state; a retry that began from it still has its files."""
    if training.state is not None:
        doom(session, account_id, training.state["files"].values())
        training.state = None
