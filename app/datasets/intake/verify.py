"""Prove that a file is a picture by decoding all of it, and read what its name and folder say."""

import hashlib
import re
import warnings
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from PIL import Image, ImageOps, UnidentifiedImageError

from app.datasets.intake.archives import is_junk, unpack
from app.datasets.intake.staging import (
    ARCHIVE_SUFFIXES,
    CAPTION_SUFFIX,
    IMAGE_SUFFIXES,
    Intake,
    Outcome,
    StagedFile,
    VerifiedImage,
)
from app.settings import Settings

# Decoders that may see untrusted bytes; Pillow has many more, some of them old.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "AVIF")
KOHYA_FOLDER = re.compile(r"^(\d{1,4})_")


class NotUsable(Exception):
    """A file that is not kept: a stable code and a reason for a person."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def take_in(files: Iterable[StagedFile], folder: Path, settings: Settings) -> Intake:
    """Unpack and verify an upload, in order. `folder` receives the members of archives.

    Raises:
        ArchiveUnsafe: an archive that must not be touched further.
    """
    intake = Intake()
    captions: dict[str, str] = {}
    for number, file in enumerate(files):
        if file.name.lower().endswith(ARCHIVE_SUFFIXES):
            inner = folder / f"archive-{number}"
            inner.mkdir()
            for member in unpack(file, inner, settings):
                _take_file(member, intake, captions, settings)
        else:
            _take_file(file, intake, captions, settings)
    _join_captions(intake, captions)
    return intake


def _take_file(
    file: StagedFile, intake: Intake, captions: dict[str, str], settings: Settings
) -> None:
    try:
        if is_junk(file.name):
            raise NotUsable("junk", "left behind by a desktop; skipped")
        if file.suffix == CAPTION_SUFFIX:
            captions[file.stem] = _read_caption(file.path, settings)
        elif file.suffix in IMAGE_SUFFIXES:
            intake.images.append(verify_image(file, settings))
            intake.outcomes.append(Outcome(file.name, "accepted"))
        else:
            known = ", ".join(sorted(s[1:] for s in IMAGE_SUFFIXES))
            raise NotUsable(
                "unsupported_file", f"not one of {known}, txt, or a zip or tar archive of these"
            )
    except NotUsable as error:
        intake.reject(file.name, error.code, error.reason)


def verify_image(file: StagedFile, settings: Settings) -> VerifiedImage:
    """Decode a picture whole and measure it.

    Raises:
        NotUsable: too large, too small, not a picture, or broken.
    """
    size = file.path.stat().st_size
    if size > settings.max_image_bytes:
        raise NotUsable(
            "image_too_large",
            f"{size} bytes; the limit (LORAWRIGHT_MAX_IMAGE_BYTES) is {settings.max_image_bytes}",
        )
    try:
        # Pillow warns of a decompression bomb at half its limit; ours is checked below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file.path, formats=FORMATS)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise NotUsable("not_an_image", f"not a {_names()} picture") from error
    with image, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = image.width * image.height
        if pixels > settings.max_image_pixels:
            raise NotUsable(
                "image_too_many_pixels",
                f"{image.width}×{image.height} is {pixels} pixels; the limit "
                f"(LORAWRIGHT_MAX_IMAGE_PIXELS) is {settings.max_image_pixels}",
            )
        if min(image.size) < settings.min_image_side_px:
            raise NotUsable(
                "image_too_small",
                f"{image.width}×{image.height}; the shorter side must be at least "
                f"{settings.min_image_side_px} px (LORAWRIGHT_MIN_IMAGE_SIDE_PX)",
            )
        format_ = str(image.format).lower()
        try:
            image.load()
            width, height = ImageOps.exif_transpose(image).size
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise NotUsable("image_broken", f"it does not decode: {error}") from error
    return VerifiedImage(
        file=file,
        sha256=_sha256(file.path),
        bytes=size,
        width=width,
        height=height,
        format=format_,
        repeats=_repeats(file.name),
    )


def _join_captions(intake: Intake, captions: dict[str, str]) -> None:
    """Give each picture the caption of its stem; the others wait for older pictures."""
    for position, image in enumerate(intake.images):
        caption = captions.pop(image.file.stem, None)
        if caption is not None:
            intake.images[position] = VerifiedImage(**{**image.__dict__, "caption": caption})
            intake.outcomes.append(Outcome(image.file.stem + CAPTION_SUFFIX, "accepted"))
    intake.loose_captions = {PurePosixPath(stem).name: text for stem, text in captions.items()}


def _read_caption(path: Path, settings: Settings) -> str:
    if path.stat().st_size > 4 * settings.max_caption_chars:
        raise NotUsable(
            "caption_too_long",
            f"{path.stat().st_size} bytes; the limit (LORAWRIGHT_MAX_CAPTION_CHARS) is "
            f"{settings.max_caption_chars} characters",
        )
    try:
        # utf-8-sig: editors on Windows put a mark in front.
        text = path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise NotUsable("caption_not_utf8", "captions are UTF-8 text") from error
    if not text:
        raise NotUsable("caption_empty", "the caption has no text")
    if len(text) > settings.max_caption_chars:
        raise NotUsable(
            "caption_too_long",
            f"{len(text)} characters; the limit (LORAWRIGHT_MAX_CAPTION_CHARS) is "
            f"{settings.max_caption_chars}",
        )
    return text


def _repeats(name: str) -> int | None:
    """The number in front of a kohya folder's name, `10_name/picture.png`."""
    folder = PurePosixPath(name).parent.name
    match = KOHYA_FOLDER.match(folder)
    return int(match.group(1)) or None if match else None


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _names() -> str:
    return ", ".join(FORMATS)
