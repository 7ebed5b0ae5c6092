"""The pictures beside things, and what is at work for them: what no answer of the API has."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.models import Captioning, Image, Ingest
from app.generations.models import GeneratedImage, Generation
from app.jobs.models import Job
from app.jobs.schemas import JobRead, read_job
from app.loras.models import Lora
from app.loras.schemas import LoraRead
from app.storage import ObjectStore
from app.trainings.models import Checkpoint

# Where a picture is looked for that was drawn with a LoRA.
NEWEST_GENERATIONS = 200


def samples(session: Session, store: ObjectStore, loras: Sequence[LoraRead]) -> dict[str, str]:
    """An address of a picture for each LoRA that there is one of: its training's, or one drawn."""
    found: dict[str, str] = {}
    checkpoints = {lora.checkpoint: lora.id for lora in loras if lora.checkpoint}
    for row in session.scalars(select(Checkpoint).where(Checkpoint.id.in_(checkpoints))):
        if row.samples:
            found[checkpoints[row.id]] = store.presign_get(row.samples[0]["object_key"])
    lacking = {lora.id for lora in loras} - found.keys()
    if lacking:
        for lora_id, key in _drawn_with(session, lacking).items():
            found[lora_id] = store.presign_get(key)
    return found


def _drawn_with(session: Session, lora_ids: set[str]) -> dict[str, str]:
    """The object of the newest picture with each of these LoRAs, among the newest generations."""
    rows = session.execute(
        select(Generation.loras, GeneratedImage.object_key)
        .join(GeneratedImage, GeneratedImage.generation_id == Generation.id)
        .join(Job, Job.id == Generation.id)
        .where(GeneratedImage.index == 0, Job.pictures_gone_at.is_(None))
        .order_by(Generation.id.desc())
        .limit(NEWEST_GENERATIONS)
    )
    found: dict[str, str] = {}
    for uses, key in rows:
        for use in uses:
            if use["lora"] in lora_ids:
                found.setdefault(use["lora"], key)
    return found


def thumbnails(
    session: Session, store: ObjectStore, dataset_id: str, image_ids: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """File name and address of a small picture, by image."""
    rows = session.scalars(
        select(Image).where(Image.dataset_id == dataset_id, Image.id.in_(image_ids))
    )
    return {
        row.id: (row.filename, store.presign_get(row.thumbnail_key or row.object_key))
        for row in rows
    }


def dataset_jobs(session: Session, dataset_id: str) -> list[JobRead]:
    """The intakes and captionings that wait or run for a dataset."""
    rows = session.scalars(
        select(Job)
        .outerjoin(Ingest, Ingest.id == Job.id)
        .outerjoin(Captioning, Captioning.id == Job.id)
        .where(
            (Ingest.dataset_id == dataset_id) | (Captioning.dataset_id == dataset_id),
            Job.status.in_(("queued", "running")),
        )
        .order_by(Job.id)
    )
    return [read_job(session, job) for job in rows]


def published(session: Session, training_id: str) -> dict[str, str]:
    """The LoRA that each checkpoint of a training was made, by checkpoint."""
    rows = session.execute(
        select(Lora.checkpoint_id, Lora.id)
        .where(Lora.training_id == training_id)
        .order_by(Lora.id.desc())
    )
    return {str(checkpoint): lora for checkpoint, lora in rows}
