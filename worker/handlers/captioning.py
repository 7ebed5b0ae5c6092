"""Captioning: describe a dataset's images in batches, in the dataset's template."""

from collections.abc import Callable

from PIL import Image as PillowImage
from PIL import ImageOps
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.database import transaction
from app.datasets.captions import render
from app.datasets.models import Captioning, Dataset, Image
from app.datasets.service import may_overwrite
from app.settings import get_settings
from app.storage import get_store
from worker.handlers.context import JobContext
from worker.handlers.models import captioner
from worker.stages import stage


def run(context: JobContext) -> Callable[[Session], None]:
    """Caption what may be overwritten; captions a person writes meanwhile are kept."""
    with transaction() as session:
        detail = session.get_one(Captioning, context.claim.job_id)
        dataset = session.get_one(Dataset, detail.dataset_id)
        images = session.execute(
            select(Image.id, Image.object_key)
            .where(Image.dataset_id == dataset.id, may_overwrite(detail.overwrite))
            .order_by(Image.id)
        ).all()
    context.progress(0.0, stage="load", step=0, total_steps=len(images))
    raw: dict[str, str] = {}
    size = get_settings().captioning_batch_size
    for start in range(0, len(images), size):
        context.check()
        batch = images[start : start + size]
        with stage("download"):
            pictures = [_fetch(context, image.object_key) for image in batch]
        with stage("caption"):
            texts = captioner(detail.captioner).caption(pictures)
        raw |= {image.id: text for image, text in zip(batch, texts, strict=True)}
        context.progress(
            len(raw) / len(images), stage="caption", step=len(raw), total_steps=len(images)
        )

    def publish(session: Session) -> None:
        written = 0
        for image_id, text in raw.items():
            caption = render(
                dataset.caption_template,
                task=dataset.task,
                trigger_word=dataset.trigger_word,
                caption=text,
            )
            written += len(
                session.scalars(
                    update(Image)
                    # Asked again: someone may have written a caption since.
                    .where(Image.id == image_id, may_overwrite(detail.overwrite))
                    .values(caption=caption, raw_caption=text, caption_source="auto")
                    .returning(Image.id)
                ).all()
            )
        session.execute(
            update(Captioning)
            .where(Captioning.id == context.claim.job_id)
            .values(images_captioned=written)
        )

    return publish


def _fetch(context: JobContext, key: str) -> PillowImage.Image:
    path = context.folder / "image"
    get_store().get_file(key, path)
    with PillowImage.open(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        upright.load()
    return upright
