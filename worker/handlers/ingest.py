"""Ingest: measure the new pictures of a dataset and make their thumbnails."""

from collections.abc import Callable

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.database import JsonObject, transaction
from app.datasets.models import Image, Ingest
from app.storage import get_store
from worker.handlers.context import JobContext
from worker.ingest.measure import measure, thumbnail


def run(context: JobContext) -> Callable[[Session], None]:
    """Do every image that was not measured yet, whichever upload brought it."""
    store = get_store()
    with transaction() as session:
        dataset_id = session.get_one(Ingest, context.claim.job_id).dataset_id
        images = session.execute(
            select(Image.id, Image.object_key, Image.sha256)
            .where(Image.dataset_id == dataset_id, Image.measured_at.is_(None))
            .order_by(Image.id)
        ).all()
    found: list[tuple[str, str, JsonObject]] = []
    for number, image in enumerate(images):
        context.check()
        path = context.folder / "image"
        store.get_file(image.object_key, path)
        # Stored under the picture's own hash: whoever makes it again makes the same bytes.
        key = f"accounts/{context.claim.account_id}/thumbnails/{image.sha256}.webp"
        store.put_bytes(key, thumbnail(path), "image/webp")
        found.append((image.id, key, measure(path)))
        context.progress(
            (number + 1) / len(images), stage="measure", step=number + 1, total_steps=len(images)
        )

    def publish(session: Session) -> None:
        for image_id, key, measures in found:
            session.execute(
                update(Image)
                .where(Image.id == image_id)
                .values(thumbnail_key=key, measures=measures, measured_at=func.now())
            )

    return publish
