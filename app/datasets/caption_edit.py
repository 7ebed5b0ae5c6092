"""Many captions edited at once: words replaced, something put in front or behind."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.models import Dataset, Image
from app.datasets.schemas import CaptionChange, CaptionsEdit, CaptionsEdited
from app.errors import FieldProblem, Invalid, NotFound
from app.settings import get_settings

LISTED = 100


def edit_captions(session: Session, dataset: Dataset, request: CaptionsEdit) -> CaptionsEdited:
    """Change the captions of a dataset; what changes is a hand caption from now on.

    Raises:
        NotFound: an image of the list is not of this dataset; nothing is changed.
        Invalid: a caption would be too long, or the request changes nothing; nothing is changed.
    """
    if request.find is None and not request.prefix and not request.suffix:
        detail = "say at least one of find, prefix and suffix"
        raise Invalid(detail, [FieldProblem("", detail)])
    images = _images(session, dataset, request.images)
    limit = get_settings().max_caption_chars
    changes: list[CaptionChange] = []
    for image in images:
        if image.caption is None:
            continue
        after = edited(image.caption, request)
        if after == image.caption:
            continue
        if len(after) > limit:
            detail = (
                f"the caption of {image.filename} ({image.id}) would have {len(after)} "
                f"characters; the limit (LORAWRIGHT_MAX_CAPTION_CHARS) is {limit}"
            )
            raise Invalid(detail, [FieldProblem("", detail)])
        changes.append(
            CaptionChange(
                image=image.id, filename=image.filename, before=image.caption, after=after or None
            )
        )
        if not request.dry_run:
            image.caption = after or None
            image.caption_source = "hand" if after else None
    session.flush()
    silent = sum(image.caption is None for image in images)
    emptied = 0 if request.dry_run else sum(change.after is None for change in changes)
    silent -= emptied
    return CaptionsEdited(
        changed=len(changes),
        unchanged=len(images) - len(changes) - silent,
        without_caption=silent,
        dry_run=request.dry_run,
        changes=changes[:LISTED],
    )


def edited(caption: str, request: CaptionsEdit) -> str:
    """A caption after the edit; spaces at its ends are none of it."""
    if request.find is not None:
        caption = caption.replace(request.find, request.replace)
    if not caption.startswith(request.prefix):
        caption = request.prefix + caption
    if not caption.endswith(request.suffix):
        caption += request.suffix
    return caption.strip()


def _images(session: Session, dataset: Dataset, wanted: list[str] | None) -> list[Image]:
    # Locked in one order, so that two edits at once take turns.
    query = select(Image).where(Image.dataset_id == dataset.id).order_by(Image.id).with_for_update()
    if wanted is not None:
        query = query.where(Image.id.in_(wanted))
    images = list(session.scalars(query))
    missing = set(wanted or ()) - {image.id for image in images}
    if missing:
        raise NotFound(f"No image {min(missing)} in {dataset.id}")
    return images
