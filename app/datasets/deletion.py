"""Datasets and images deleted: rows at once, bytes once nothing needs them.

What a training has frozen is not touched: its pictures stay in storage as long as it may read
them, whatever becomes of their rows.
"""

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.datasets.models import Captioning, Dataset, Image, Ingest, Upload
from app.errors import Conflict
from app.jobs import service as jobs
from app.jobs.models import TERMINAL, Job
from app.retention import service as retention
from app.storage import ObjectStore
from app.trainings.models import Training

NAMED_JOBS = 5


def delete_dataset(session: Session, store: ObjectStore, dataset: Dataset) -> None:
    """Delete a dataset with its images and its unfinished uploads.

    Raises:
        Conflict: a queued or running training or captioning uses it.
        StorageUnavailable: storage is away, and there are uploads to abort; nothing is deleted.
    """
    # From here on no job can come to name it: those that do wait, and find it gone.
    session.execute(select(Dataset.id).where(Dataset.id == dataset.id).with_for_update())
    _refuse_while_used(session, dataset, Training.dataset_id == dataset.id)
    account_id = dataset.account_id
    for job_id in session.scalars(
        select(Job.id)
        .join(Ingest, Ingest.id == Job.id)
        .where(Ingest.dataset_id == dataset.id, Job.status.not_in(TERMINAL))
    ).all():
        jobs.request_cancel(session, account_id, job_id, "ingest")
    keys: list[str] = []
    for upload in session.scalars(select(Upload).where(Upload.dataset_id == dataset.id)).all():
        if upload.stage == "receiving":
            store.abort_parts(upload.object_key, upload.store_upload_id)
        if not upload.object_gone:
            keys.append(upload.object_key)
    rows = session.execute(
        select(Image.object_key, Image.thumbnail_key).where(Image.dataset_id == dataset.id)
    ).all()
    keys += [key for row in rows for key in row if key is not None]
    session.execute(delete(Dataset).where(Dataset.id == dataset.id))
    retention.doom(session, account_id, keys)
    changes = {"name": dataset.name, "images": len(rows)}
    audit.record(session, "dataset.delete", dataset.id, account_id=account_id, changes=changes)


def delete_image(session: Session, dataset: Dataset, image: Image) -> None:
    """Delete an image.

    Raises:
        Conflict: a queued or running training or captioning uses it.
    """
    # As uploads do, so that one that brings the same picture comes before or after.
    session.execute(
        select(Dataset.id).where(Dataset.id == dataset.id).with_for_update(key_share=True)
    )
    frozen = Training.spec["images"].contains([{"image": image.id}])
    _refuse_while_used(session, dataset, frozen)
    keys = [key for key in (image.object_key, image.thumbnail_key) if key is not None]
    session.execute(delete(Image).where(Image.id == image.id))
    retention.doom(session, dataset.account_id, keys)
    changes = {"dataset": dataset.id, "filename": image.filename, "sha256": image.sha256}
    audit.record(session, "image.delete", image.id, account_id=dataset.account_id, changes=changes)


def _refuse_while_used(
    session: Session, dataset: Dataset, training_uses_it: ColumnElement[bool]
) -> None:
    class_pictures = Training.spec["params"]["prior_preservation"]["dataset"].astext == dataset.id
    using = session.scalars(
        select(Job.id)
        .outerjoin(Training, Training.id == Job.id)
        .outerjoin(Captioning, Captioning.id == Job.id)
        .where(
            Job.account_id == dataset.account_id,
            Job.status.not_in(TERMINAL),
            Job.kind.in_(("training", "captioning")),
            or_(training_uses_it, class_pictures, Captioning.dataset_id == dataset.id),
        )
        .order_by(Job.created_at)
    ).all()
    if using:
        named = ", ".join(using[:NAMED_JOBS])
        more = f" and {len(using) - NAMED_JOBS} more" if len(using) > NAMED_JOBS else ""
        raise Conflict(f"It is used by {named}{more}; cancel them, or wait until they have ended")
