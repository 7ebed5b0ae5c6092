"""What an upload turns into before anything of it is kept."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".avif"})
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
CAPTION_SUFFIX = ".txt"


@dataclass(frozen=True)
class StagedFile:
    """A file of the upload, or a member of one of its archives, on local disk.

    Attributes:
        name: as the customer knows it; for members `archive.zip/folder/picture.png`.
        path: where its bytes lie, under a name of our own.
    """

    name: str
    path: Path

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
    """What became of one file. `code` and `reason` are set when it was rejected."""

    filename: str
    status: Literal["accepted", "rejected"]
    code: str | None = None
    reason: str | None = None


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
