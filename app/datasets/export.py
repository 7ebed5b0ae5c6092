"""A dataset as a zip in kohya's layout, written while it is sent.

    dataset.toml
    images/fox.png, images/fox.txt        shown as often as the training says
    10_images/owl.png, 10_images/owl.txt  shown ten times an epoch

Our own uploads read it back as it was.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.captions import render
from app.datasets.intake.staging import IMAGE_SUFFIXES
from app.datasets.models import Dataset, Image
from app.storage import ObjectStore

SUFFIX_OF = {"jpeg": ".jpg"}


@dataclass(frozen=True)
class Entry:
    """A picture of the export; `path` is its place in the zip, without a suffix."""

    path: str
    suffix: str
    object_key: str
    bytes: int
    caption: str | None


@dataclass(frozen=True)
class Export:
    """Everything that is written, known before anything is."""

    entries: tuple[Entry, ...]
    dataset_toml: str


def plan_export(session: Session, dataset: Dataset) -> Export:
    """Give every image that is not excluded its place."""
    rows = session.scalars(
        select(Image)
        .where(Image.dataset_id == dataset.id, Image.excluded.is_(False))
        .order_by(Image.id)
    ).all()
    taken: set[str] = set()
    entries = []
    for row in rows:
        folder = "images" if row.repeats is None else f"{row.repeats}_images"
        path = _free(f"{folder}/{_stem(row.filename)}", taken)
        entries.append(Entry(path, _suffix(row), row.object_key, row.bytes, row.caption))
    return Export(tuple(entries), _dataset_toml(dataset, rows))


def stream(store: ObjectStore, export: Export) -> Iterator[bytes]:
    """The zip, piece by piece; a piece is about what storage sends at a time.

    Raises:
        NotFound: a picture is gone from storage; what was sent is no whole zip.
        StorageUnavailable: storage is away.
    """
    pieces = _Pieces()
    with zipfile.ZipFile(pieces, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("dataset.toml", export.dataset_toml)
        for entry in export.entries:
            info = zipfile.ZipInfo(entry.path + entry.suffix)
            # Pictures are compressed already.
            info.file_size = entry.bytes
            with archive.open(info, "w") as member:
                for chunk in store.chunks(entry.object_key):
                    member.write(chunk)
                    yield pieces.take()
            if entry.caption is not None:
                archive.writestr(entry.path + ".txt", entry.caption + "\n")
            yield pieces.take()
    yield pieces.take()


class _Pieces(io.RawIOBase):
    """Where the zip is written: what came since it was last taken."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self._pieces.append(piece)
        return len(piece)

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _dataset_toml(dataset: Dataset, rows: Sequence[Image]) -> str:
    # What a picture without a caption would be trained on here; JSON's strings are TOML's.
    alone = render(
        dataset.caption_template, task=dataset.task, trigger_word=dataset.trigger_word, caption=""
    )
    lines = ["[general]", 'caption_extension = ".txt"', "", "[[datasets]]"]
    for repeats in sorted({row.repeats for row in rows}, key=lambda count: count or 0):
        silent = any(row.caption is None for row in rows if row.repeats == repeats)
        folder = "images" if repeats is None else f"{repeats}_images"
        lines += ["", "  [[datasets.subsets]]", f'  image_dir = "{folder}"']
        if repeats is not None:
            lines.append(f"  num_repeats = {repeats}")
        if silent and alone:
            lines.append(f"  class_tokens = {json.dumps(alone, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _stem(filename: str) -> str:
    """A name that every file system takes; never one that is hidden or leads elsewhere."""
    stem = PurePosixPath(filename.replace("\\", "/")).stem
    safe = "".join(c if c.isprintable() and c not in '/:*?"<>|' else "_" for c in stem)
    return safe.strip(". ")[:120] or "image"


def _suffix(image: Image) -> str:
    suffix = PurePosixPath(image.filename).suffix.lower()
    return suffix if suffix in IMAGE_SUFFIXES else SUFFIX_OF.get(image.format, f".{image.format}")


def _free(path: str, taken: set[str]) -> str:
    """The path, or the first with a number that is free; case does not tell names apart."""
    found, number = path, 1
    while found.lower() in taken:
        number += 1
        found = f"{path}-{number}"
    taken.add(found.lower())
    return found
