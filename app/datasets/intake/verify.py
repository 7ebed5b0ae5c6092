"""Prove that a file is a picture by decoding all of it, and read what its name and folder say."""

import hashlib
import re
import struct
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from PIL import Image

from app.content.rules import upload_refusal
from app.datasets.intake.archives import is_junk, unpack
from app.datasets.intake.dataset_toml import (
    DatasetFile,
    DatasetFileInvalid,
    Subset,
    read_dataset_file,
)
from app.datasets.intake.staging import (
    ARCHIVE_SUFFIXES,
    CAPTION_SUFFIX,
    DATASET_FILE,
    IMAGE_SUFFIXES,
    MAX_DATASET_FILE_BYTES,
    Intake,
    Outcome,
    StagedFile,
    VerifiedImage,
)
from app.settings import Settings

# Decoders that may see untrusted bytes; Pillow has many more, some of them old.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "AVIF")
KOHYA_FOLDER = re.compile(r"^(\d{1,4})_")
# What trainers that read masks beside pictures call them.
MASK_NAME = re.compile(r"[-_.](mask|masklabel)\.\w+$", re.IGNORECASE)
ORIENTATION = 0x0112
# Orientations in which the picture lies on its side.
SIDEWAYS = frozenset({5, 6, 7, 8})


class NotUsable(Exception):
    """A file that is not kept: a stable code and a reason for a person."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def take_in(
    files: Iterable[StagedFile],
    folder: Path,
    settings: Settings,
    check: Callable[[], None] = lambda: None,
) -> Intake:
    """Unpack and verify an upload, in order. `folder` receives the members of archives.

    Args:
        check: called before each file; raises to stop.

    Raises:
        ArchiveUnsafe: an archive that must not be touched further.
    """
    sorter = _Sorter(settings)
    for number, file in enumerate(files):
        if file.name.lower().endswith(ARCHIVE_SUFFIXES):
            inner = folder / f"archive-{number}"
            inner.mkdir()
            for member in unpack(file, inner, settings):
                check()
                sorter.take(member)
        else:
            check()
            sorter.take(file)
    return sorter.finish()


class _Sorter:
    """Tells pictures, captions, a dataset.toml and the rest apart, and joins them at the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._intake = Intake()
        # By the file, since two suffixes may be captions of one picture.
        self._texts: list[StagedFile] = []
        self._unknown: list[StagedFile] = []
        # By the folder it describes.
        self._described: dict[PurePosixPath, DatasetFile] = {}

    def take(self, file: StagedFile) -> None:
        """Look at one file; what it means may depend on files that come later."""
        try:
            if is_junk(file.name):
                raise NotUsable("junk", "left behind by a desktop; skipped")
            if file.suffix == CAPTION_SUFFIX:
                self._texts.append(file)
            elif file.basename.lower() == DATASET_FILE:
                self._describe(file)
            elif file.suffix in IMAGE_SUFFIXES:
                if MASK_NAME.search(file.basename):
                    raise NotUsable(
                        "mask_unsupported",
                        "masks are taken from a picture's own transparency: save it as PNG or "
                        "WebP and train with alpha_mask",
                    )
                self._intake.images.append(verify_image(file, self._settings))
                self._intake.outcomes.append(Outcome(file.name, "accepted"))
            else:
                self._unknown.append(file)
        except NotUsable as error:
            self._drop(file, error)

    def finish(self) -> Intake:
        """Join captions and descriptions with their pictures."""
        extensions = {end for found in self._described.values() for end in found.caption_extensions}
        for file in self._unknown:
            if file.suffix in extensions:
                self._texts.append(file)
            else:
                self._drop(file, _unsupported(file))
        captions: dict[str, dict[str, StagedFile]] = {}
        for file in self._texts:
            captions.setdefault(file.stem, {})[file.suffix] = file
        for position, image in enumerate(self._intake.images):
            said = self._subset(image.file)
            wanted = CAPTION_SUFFIX
            if said is not None and said.caption_extension:
                wanted = said.caption_extension
            caption = self._read(captions.get(image.file.stem, {}).pop(wanted, None))
            if said is not None:
                image = replace(image, repeats=said.num_repeats or image.repeats)
                caption = caption or said.class_tokens
            self._intake.images[position] = replace(image, caption=caption)
        for texts in captions.values():
            for file in texts.values():
                self._loose(file)
        return self._intake

    def _describe(self, file: StagedFile) -> None:
        if file.bytes > MAX_DATASET_FILE_BYTES:
            raise NotUsable(
                "dataset_toml_invalid",
                f"{file.bytes} bytes; a dataset.toml has at most {MAX_DATASET_FILE_BYTES}",
            )
        try:
            found = read_dataset_file(file.path.read_bytes())
        except DatasetFileInvalid as error:
            raise NotUsable("dataset_toml_invalid", str(error)) from error
        self._described[file.folder] = found
        self._intake.outcomes.append(
            Outcome(file.name, "accepted", not_honoured=found.not_honoured)
        )

    def _subset(self, file: StagedFile) -> Subset | None:
        """What the nearest dataset.toml above a picture says of its folder."""
        for folder in (file.folder, *file.folder.parents):
            if folder in self._described:
                return self._described[folder].subset_for(file.folder)
        return None

    def _read(self, file: StagedFile | None) -> str | None:
        if file is None:
            return None
        try:
            text = _read_caption(file, self._settings)
        except NotUsable as error:
            self._drop(file, error)
            return None
        self._intake.outcomes.append(Outcome(file.name, "accepted"))
        return text

    def _loose(self, file: StagedFile) -> None:
        """A caption whose picture may have come before, with another upload."""
        try:
            text = _read_caption(file, self._settings)
        except NotUsable as error:
            self._drop(file, error)
        else:
            self._intake.loose_captions[PurePosixPath(file.stem).name] = text

    def _drop(self, file: StagedFile, error: NotUsable) -> None:
        self._intake.reject(file.name, error.code, error.reason)


def _unsupported(file: StagedFile) -> NotUsable:
    if file.name.lower().endswith(ARCHIVE_SUFFIXES):
        return NotUsable("archive_nested", "an archive inside an archive is not unpacked")
    known = ", ".join(sorted(s[1:] for s in IMAGE_SUFFIXES))
    return NotUsable(
        "unsupported_file", f"not one of {known}, txt, or a zip or tar archive of these"
    )


def verify_image(file: StagedFile, settings: Settings) -> VerifiedImage:
    """Decode a picture whole and measure it.

    Raises:
        NotUsable: too large, too small, not a picture, broken, or refused by the operator's rules.
    """
    size = file.bytes
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
    except Image.DecompressionBombError as error:
        raise NotUsable(
            "image_too_many_pixels",
            f"{error}; the limit (LORAWRIGHT_MAX_IMAGE_PIXELS) is {settings.max_image_pixels}",
        ) from error
    # SyntaxError: what some of Pillow's readers call a damaged header.
    except (OSError, ValueError, SyntaxError, EOFError) as error:
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
        # Cameras put a second, small picture behind the first, which Pillow calls another format.
        format_ = "jpeg" if image.format == "MPO" else str(image.format).lower()
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and format_ != "jpeg":
            raise NotUsable(
                "image_animated", f"it moves: {frames} pictures in one; save the one that counts"
            )
        try:
            image.load()
            sideways = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise NotUsable("image_broken", f"it does not decode: {error}") from error
        if (rule := upload_refusal(image)) is not None:
            raise NotUsable("image_refused", f"it breaks this service's rule {rule!r}")
        width, height = reversed(image.size) if sideways else image.size
    return VerifiedImage(
        file=file,
        sha256=_sha256(file.path),
        bytes=size,
        width=width,
        height=height,
        format=format_,
        repeats=_repeats(file.name),
    )


def _read_caption(file: StagedFile, settings: Settings) -> str:
    if file.bytes > 4 * settings.max_caption_chars:
        raise NotUsable(
            "caption_too_long",
            f"{file.bytes} bytes; the limit (LORAWRIGHT_MAX_CAPTION_CHARS) is "
            f"{settings.max_caption_chars} characters",
        )
    try:
        # utf-8-sig: editors on Windows put a mark in front.
        text = file.path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise NotUsable("caption_not_utf8", "captions are UTF-8 text") from error
    if "\0" in text:
        raise NotUsable("caption_not_utf8", "captions are text, without NUL characters")
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
