"""Deleting a job: all that it was and made, but the row that says what it has cost."""

from sqlalchemy import func, text, update
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.errors import Conflict
from app.jobs import service as jobs
from app.jobs.models import Job, JobKind
from app.retention.service import doom

# Whatever a job's rows say is stored for it.
_KEYS = text("""
    SELECT object_key FROM generated_images WHERE generation_id = :id
    UNION SELECT object_key FROM checkpoints WHERE training_id = :id
    UNION SELECT sample ->> 'object_key'
        FROM checkpoints CROSS JOIN LATERAL jsonb_array_elements(samples) AS sample
        WHERE training_id = :id
    UNION SELECT file.value
        FROM trainings CROSS JOIN LATERAL jsonb_each_text(state -> 'files') AS file
        WHERE id = :id AND state IS NOT NULL
    UNION SELECT sheet_key FROM comparisons WHERE id = :id AND sheet_key IS NOT NULL
    UNION SELECT image ->> 'object_key'
        FROM comparisons CROSS JOIN LATERAL jsonb_array_elements(images) AS image
        WHERE id = :id
""")
_DETAILS = ("captionings", "trainings", "generations", "comparisons", "lora_tools")


def delete_job(session: Session, account_id: str, job_id: str, kind: JobKind) -> None:
    """Delete a job that has ended: its request, story and results at once, their bytes soon.

    A published LoRA is an object of its own, and stays with its file.

    Raises:
        NotFound: no such job in this account.
        Conflict: it has not ended.
    """
    job = jobs.get(session, account_id, job_id, kind)
    if not jobs.has_ended(job):
        raise Conflict(f"{job_id} is {job.status}; cancel it, and delete it when it has ended")
    doom(session, account_id, session.scalars(_KEYS, {"id": job_id}))
    for table in _DETAILS:
        session.execute(text(f"DELETE FROM {table} WHERE id = :id"), {"id": job_id})
    session.execute(text("DELETE FROM job_events WHERE job_id = :id"), {"id": job_id})
    session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(
            deleted_at=func.now(), labels={}, error_message=None, request_id=None, batch_key=None
        )
        .execution_options(synchronize_session=False)
    )
    audit.record(
        session, "job.delete", job_id, account_id=account_id, changes={"status": job.status}
    )
