"""Generations: queue what a request has frozen into, and find what became of it."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.database import new_id
from app.generations.batching import batch_key
from app.generations.freeze import freeze
from app.generations.models import GeneratedImage, Generation
from app.generations.schemas import GenerationCreate
from app.jobs import service as jobs
from app.storage import ObjectStore


def submit(
    session: Session,
    store: ObjectStore,
    account_id: str,
    request: GenerationCreate,
    request_id: str,
) -> Generation:
    """Queue a generation with everything it needs frozen in its row.

    Raises:
        RequestError: see `freeze`.
    """
    frozen = freeze(session, store, account_id, request)
    job_id = new_id("gen")
    jobs.submit(
        session,
        job_id=job_id,
        kind="generation",
        queue="generate",
        account_id=account_id,
        labels=request.metadata,
        request_id=request_id,
        batch_key=batch_key(frozen.base_model.id, frozen.request),
        batch_size=request.num_images,
    )
    generation = Generation(
        id=job_id,
        base_model=frozen.base_model.id,
        request=frozen.request,
        loras=frozen.loras,
        lora_reports=[],
    )
    session.add(generation)
    session.flush()
    return generation


def images(session: Session, generation_id: str) -> list[GeneratedImage]:
    """The pictures of a generation, in order."""
    return list(
        session.scalars(
            select(GeneratedImage)
            .where(GeneratedImage.generation_id == generation_id)
            .order_by(GeneratedImage.index)
        )
    )
