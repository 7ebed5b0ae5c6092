"""What an upload turns into before anything of it is kept."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from app.settings import Settings

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".avif"})
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
CAPTION_SUFFIX = ".txt"
# Trainers' description of a folder, see `dataset_toml`.
DATASET_FILE = "dataset.toml"
MAX_DATASET_FILE_BYTES = 256 * 1024


@dataclass(frozen=True)
class StagedFile:
    """A file of the upload, or a member of one of its archives, on local disk.

    Attributes:
        name: as the customer knows it; for members `archive.zip/folder/picture.png`.
        path: where its bytes lie, under a name of our own.
        sent_bytes: how many came, where those over the limit were not kept; None: all are there.
    """

    name: str
    path: Path
    sent_bytes: int | None = None

    @property
    def bytes(self) -> int:
        """Its size, before anything was cut."""
        return self.path.stat().st_size if self.sent_bytes is None else self.sent_bytes

    @property
    def basename(self) -> str:
        """The name without its folders."""
        return PurePosixPath(self.name).name

    @property
    def folder(self) -> PurePosixPath:
        """The folder it lies in, from the root of the upload."""
        return PurePosixPath(self.name).parent

    @property
    def stem(self) -> str:
        """The name without its suffix: what ties a caption to its picture."""
        return self.name.rsplit(".", 1)[0]

    @property
    def suffix(self) -> str:
        """The lower-case suffix, dot included."""
        return Path(self.name).suffix.lower()


@dataclass(frozen=True)
class VerifiedImage:
    """A picture that decodes.

    Attributes:
        width, height: in pixels, after EXIF orientation.
        repeats: from a kohya folder (`10_name/`), else None.
    """

    file: StagedFile
    sha256: str
    bytes: int
    width: int
    height: int
    format: str
    caption: str | None = None
    repeats: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one file. `code` and `reason` are set when it was rejected.

    `not_honoured` names what a dataset.toml says that an upload cannot do.
    """

    filename: str
    status: Literal["accepted", "rejected"]
    code: str | None = None
    reason: str | None = None
    not_honoured: tuple[str, ...] = ()


@dataclass
class Intake:
    """The whole upload after verification."""

    images: list[VerifiedImage] = field(default_factory=list)
    # Captions whose picture is not in this upload, by the picture's file stem.
    loose_captions: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def reject(self, name: str, code: str, reason: str) -> None:
        """Record a file that is not kept, and why."""
        self.outcomes.append(Outcome(name, "rejected", code, reason))


def most_bytes(name: str, settings: Settings) -> int:
    """How many bytes of a file of that name are worth keeping; more is refused by its kind."""
    lower = name.lower()
    if lower.endswith(ARCHIVE_SUFFIXES):
        return settings.max_upload_bytes
    if lower == DATASET_FILE:
        return MAX_DATASET_FILE_BYTES
    if Path(lower).suffix in IMAGE_SUFFIXES:
        return settings.max_image_bytes
    # Captions, under whatever suffix a dataset.toml may give them.
    return 4 * settings.max_caption_chars
