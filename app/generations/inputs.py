"""Pictures to start from, and masks: sent beforehand, taken from what is there, or in the request.

A reference is an uploaded picture (`up_…`), one of a dataset (`img_…`), one that was drawn
(`gen_…/0`), or a `data:` URL. Whichever it is, what a request freezes is an object and its hash.
"""

import base64
import binascii
import hashlib
import io
import re
import tempfile
from datetime import timedelta
from pathlib import Path

from PIL import Image, ImageOps
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit import service as audit
from app.database import JsonObject, new_id, utc_now
from app.datasets.intake.staging import StagedFile, VerifiedImage
from app.datasets.intake.verify import NotUsable, verify_image
from app.datasets.models import Dataset
from app.datasets.models import Image as DatasetImage
from app.errors import FieldProblem, Invalid, NotFound, OutputExpired
from app.generations.models import GeneratedImage, InputImage
from app.jobs.models import Job
from app.retention.service import doom, hold
from app.settings import get_settings
from app.storage import ObjectStore

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_DRAWN = re.compile(r"(gen_\w+)/(\d{1,3})")


class ImageUnusable(Invalid):
    """A picture of a request that cannot be used."""

    code = "image_unusable"
    title = "The picture cannot be used"


def add(session: Session, store: ObjectStore, account_id: str, path: Path, name: str) -> InputImage:
    """Verify a picture and keep it: upright, without metadata, lossless; the bytes first.

    Raises:
        ImageUnusable: it is over a limit or does not decode.
        StorageUnavailable: the bytes could not be stored; no row is written.
    """
    verified = _verified(path, name)
    data = _packed(path)
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"accounts/{account_id}/inputs/{sha256}.png"
    kept = get_settings().input_keep_seconds
    hold(session, account_id)
    store.put_bytes(key, data, "image/png")
    image = InputImage(
        id=new_id("up"),
        account_id=account_id,
        width=verified.width,
        height=verified.height,
        object_key=key,
        sha256=sha256,
        bytes=len(data),
        expires_at=None if kept is None else utc_now() + timedelta(seconds=kept),
    )
    session.add(image)
    session.flush()
    session.refresh(image)
    return image


def get(session: Session, account_id: str, image_id: str) -> InputImage:
    """An uploaded picture of this account.

    Raises:
        NotFound: there is none of that id.
    """
    image = session.scalar(
        select(InputImage).where(InputImage.id == image_id, InputImage.account_id == account_id)
    )
    if image is None:
        raise NotFound(f"No uploaded picture {image_id}")
    return image


def check_kept(image: InputImage) -> None:
    """Refuse a picture whose bytes are gone.

    Raises:
        OutputExpired: its time is over.
    """
    if image.gone_at is not None:
        raise OutputExpired(f"{image.id} was kept until {image.expires_at:%Y-%m-%d %H:%M} UTC")


def delete(session: Session, image: InputImage) -> None:
    """Delete an uploaded picture; its bytes go once no unfinished request needs them."""
    doom(session, image.account_id, [image.object_key])
    session.delete(image)
    session.flush()
    changes = {"sha256": image.sha256}
    audit.record(session, "input.delete", image.id, account_id=image.account_id, changes=changes)


def resolve(
    session: Session, store: ObjectStore | None, account_id: str, name: str, reference: str
) -> JsonObject:
    """The object a reference stands for: `ref`, `object_key` and `sha256`.

    Args:
        store: None keeps nothing: the picture of a `data:` URL is only checked.
        name: the field it stands in, for errors.

    Raises:
        NotFound: the account has no such picture.
        OutputExpired: its time is over.
        ImageUnusable: a `data:` URL that is no usable picture.
        Invalid: it is no reference at all.
    """
    if reference.startswith("data:"):
        made = _from_data_url(session, store, account_id, name, reference)
        return _frozen(made.id, made.object_key, made.sha256) if made else _frozen("data:", "", "")
    if reference.startswith("up_"):
        image = get(session, account_id, reference)
        check_kept(image)
        return _frozen(image.id, image.object_key, image.sha256)
    if reference.startswith("img_"):
        row = session.scalar(
            select(DatasetImage)
            .join(Dataset, Dataset.id == DatasetImage.dataset_id)
            .where(DatasetImage.id == reference, Dataset.account_id == account_id)
        )
        if row is None:
            raise NotFound(f"No image {reference}")
        return _frozen(reference, row.object_key, row.sha256)
    if match := _DRAWN.fullmatch(reference):
        found = session.execute(
            select(GeneratedImage, Job.pictures_expire_at, Job.pictures_gone_at)
            .join(Job, Job.id == GeneratedImage.generation_id)
            .where(
                GeneratedImage.generation_id == match[1],
                GeneratedImage.index == int(match[2]),
                Job.account_id == account_id,
            )
        ).one_or_none()
        if found is None:
            raise NotFound(f"No picture {reference}")
        drawn, expired_at, gone_at = found
        if gone_at is not None:
            raise OutputExpired(f"{reference} was kept until {expired_at:%Y-%m-%d %H:%M} UTC")
        return _frozen(reference, drawn.object_key, drawn.sha256)
    detail = f"{name}: {reference[:60]!r} is none of up_…, img_…, gen_…/0 and data:image/…;base64,…"
    raise Invalid(detail, [FieldProblem(f"/{name}", detail)])


def _verified(path: Path, name: str) -> VerifiedImage:
    try:
        return verify_image(StagedFile(name, path), get_settings())
    except NotUsable as error:
        detail = f"{name}: {error.reason}"
        raise ImageUnusable(detail, [FieldProblem(f"/{name}", error.reason, error.code)]) from error


def _from_data_url(
    session: Session, store: ObjectStore | None, account_id: str, name: str, url: str
) -> InputImage | None:
    head = _DATA_URL.match(url)
    try:
        if head is None:
            raise ValueError("it must begin with data:image/…;base64,")
        data = base64.b64decode(url[head.end() :], validate=True)
    except (ValueError, binascii.Error) as error:
        reason = f"not a data: URL of a picture: {error}"
        raise ImageUnusable(f"{name}: {reason}", [FieldProblem(f"/{name}", reason)]) from error
    with tempfile.TemporaryDirectory(prefix="lorawright-input-") as folder:
        path = Path(folder, "picture")
        path.write_bytes(data)
        if store is None:
            _verified(path, name)
            return None
        return add(session, store, account_id, path, name)


def _packed(path: Path) -> bytes:
    """The picture as PNG: upright, its pixels as they are, and nothing else of the file."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        plain = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    buffer = io.BytesIO()
    Image.frombytes(plain.mode, plain.size, plain.tobytes()).save(buffer, "png")
    return buffer.getvalue()


def _frozen(reference: str, object_key: str, sha256: str) -> JsonObject:
    return {"ref": reference, "object_key": object_key, "sha256": sha256}
