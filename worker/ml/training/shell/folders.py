"""Which files of a folder are pictures to train on, and what the captions beside them say.

What is of no use is named, with the reason, and skipped: one bad file must not cost a training.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from PIL import Image

from worker.ml.training.errors import SpecInvalid

# Told one sentence for each thing a person should know.
Tell = Callable[[str], None]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "AVIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif")
# sd-scripts' own, and the one that most other programs write.
CAPTION_EXTENSION, OTHER_CAPTION_EXTENSION = ".caption", ".txt"
# Left in the folder by sd-scripts; they are of no use here and need no word.
_CACHES = re.compile(r".*\.npz|metadata_cache\.json|.*\.safetensors", re.IGNORECASE)
_ORIENTATION = 0x0112
# Orientations that lay a picture on its side.
_SIDEWAYS = (5, 6, 7, 8)
_REPEATED = re.compile(r"(\d+)_(.*)", re.DOTALL)


class PictureUnfit(Exception):
    """A file is no picture to train on; the text is the reason."""


@dataclass(frozen=True)
class Picture:
    """A picture that decodes.

    Attributes:
        sha256: of the file's bytes.
        width, height: after EXIF orientation.
        caption: the whole text of the file beside it, None where there is none.
    """

    path: Path
    sha256: str
    width: int
    height: int
    caption: str | None = None


def is_junk(name: str) -> bool:
    """Whether a file or folder is what desktops leave behind."""
    junk = {"__macosx", "thumbs.db", "desktop.ini"}
    return name.startswith(".") or name.lower() in junk


def is_utf8(text: str) -> bool:
    """Whether a text can be written: JSON and file systems can smuggle in half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def measure(path: Path) -> Picture:
    """Decode a file to the end, and measure it.

    Raises:
        PictureUnfit: it is no picture, is cut off, or cannot be read.
    """
    if is_junk(path.name):
        raise PictureUnfit("left behind by a desktop")
    if path.suffix.lower() not in SUFFIXES:
        raise PictureUnfit(f"not a picture that is read: those end in {', '.join(SUFFIXES)}")
    if not os.path.isfile(path):
        raise PictureUnfit("no file, or a link to nothing")
    # A spec is JSON, which carries no other names.
    if not is_utf8(str(path.absolute())):
        raise PictureUnfit("its path is not UTF-8")
    try:
        data = path.read_bytes()
        if not data:
            raise PictureUnfit("empty")
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            image.load()
            width, height = image.size
            if image.getexif().get(_ORIENTATION) in _SIDEWAYS:
                width, height = height, width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureUnfit(f"does not decode: {_reason(error)}") from error
    return Picture(path, hashlib.sha256(data).hexdigest(), width, height)


def measure_all(paths: Sequence[Path], warn: Tell) -> list[Picture]:
    """The pictures among some files, in their order; a warning for each other one.

    A picture that is there twice, byte for byte, is kept and told.
    """

    def attempt(path: Path) -> Picture | PictureUnfit:
        try:
            return measure(path)
        except PictureUnfit as reason:
            return reason

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # Decoding leaves Python's lock alone, and a few pictures fit into any memory.
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            tried = list(pool.map(attempt, paths))
    found: list[Picture] = []
    first: dict[str, Path] = {}
    for path, outcome in zip(paths, tried, strict=True):
        if isinstance(outcome, PictureUnfit):
            warn(f"{path.name} is skipped: {outcome}")
            continue
        found.append(outcome)
        if (twin := first.setdefault(outcome.sha256, path)) != path:
            warn(f"{path.name} is the same picture as {twin.name}: it counts twice")
    return found


def contents(folder: Path) -> list[Path]:
    """What lies in a folder itself, by name.

    Raises:
        SpecInvalid: it is no folder, or cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise SpecInvalid(f"{folder} cannot be read: {error.strerror}") from error


def looks_like_picture(path: Path) -> bool:
    """By its name alone."""
    return path.suffix.lower() in SUFFIXES and not is_junk(path.name)


def pictures_in(
    folder: Path, tell: Tell, warn: Tell, caption_extension: str | None = None
) -> list[Picture]:
    """Every usable picture that lies in a folder itself, by name, with its caption.

    Args:
        tell, warn: hear what was chosen, and what is wrong.
        caption_extension: of the caption files; None: `.caption`, or `.txt` where there is no
            file of the first kind.

    Raises:
        SpecInvalid: the folder cannot be read, or a caption is not UTF-8.
    """
    files = contents(folder)
    stems = {path.stem for path in files if path.suffix.lower() in SUFFIXES}
    names = {path.name for path in files}

    def captions(extension: str) -> set[str]:
        return {stem + extension for stem in stems} & names

    extension = caption_extension or CAPTION_EXTENSION
    known = captions(extension) | captions(CAPTION_EXTENSION) | captions(OTHER_CAPTION_EXTENSION)
    if caption_extension is None and not captions(extension):
        extension = OTHER_CAPTION_EXTENSION
        if captions(extension):
            tell(f"{folder.name} has no {CAPTION_EXTENSION} files: its {extension} files are read")
    candidates: list[Path] = []
    for path in files:
        if path.is_dir():
            reason = "left behind by a desktop" if is_junk(path.name) else "folders in it stay shut"
            warn(f"{path.name} in {folder.name} is skipped: {reason}")
        elif path.name not in known and not _CACHES.fullmatch(path.name):
            candidates.append(path)
    return [
        replace(
            picture,
            caption=read_caption(picture.path.with_name(picture.path.stem + extension), warn),
        )
        for picture in measure_all(candidates, warn)
    ]


def read_caption(path: Path, warn: Tell) -> str | None:
    """The text of a caption file; None where there is none, or nothing in it.

    Raises:
        SpecInvalid: it is not UTF-8, or cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecInvalid(f"{path} is no caption in UTF-8: {_reason(error)}") from error
    if not text.strip():
        warn(f"{path.name} is empty: its picture counts as one without a caption")
        return None
    return text


def repeats_and_class(name: str) -> tuple[int, str] | None:
    """What kohya's name of a folder says: `10_sks dog` means 10 repeats of "sks dog".

    None for any other name. The repeats may be 0, which means: leave the folder out.
    """
    match = _REPEATED.fullmatch(name)
    return None if match is None else (int(match[1]), match[2].strip())


def _reason(error: Exception) -> str:
    # Pillow names its own buffer where there is no file name.
    return re.sub(r" <_io\.BytesIO[^>]*>", "", str(error)) or type(error).__name__
