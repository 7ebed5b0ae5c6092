"""Unpack zip and tar archives that may be hostile, checking while the bytes stream.

What an archive says of itself (sizes, names, kinds) is checked first, since that is cheap; what it
really yields is counted as well, since headers lie.
"""

import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from app.datasets.intake.staging import StagedFile
from app.errors import ArchiveUnsafe, FieldProblem
from app.settings import Settings

CHUNK_BYTES = 256 * 1024
DRIVE = re.compile(r"^[A-Za-z]:")
# An unpacked member this small cannot bomb, whatever its ratio.
RATIO_FREE_BYTES = 1024 * 1024
BAD_ARCHIVE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, NotImplementedError),
)


def unpack(archive: StagedFile, folder: Path, settings: Settings) -> Iterator[StagedFile]:
    """Yield the regular files of an archive, each written under a name of our own.

    Raises:
        ArchiveUnsafe: a member leaves the archive's folder, is a link or a device, is encrypted,
            or the archive breaks a limit; nothing of it should be kept.
    """
    reader = _unzip if archive.suffix == ".zip" else _untar
    try:
        yield from reader(archive, folder, settings)
    except BAD_ARCHIVE as error:
        raise _refused(archive.name, "archive_broken", f"it cannot be read: {error}") from error
    except RuntimeError as error:  # zipfile's word for a member that needs a password
        raise _refused(archive.name, "archive_encrypted", str(error)) from error


def is_junk(name: str) -> bool:
    """Whether a file is what desktops leave behind: `__MACOSX`, dot files, thumbnail indexes."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or any(
        part.startswith(".") or part.lower() in {"thumbs.db", "desktop.ini"} for part in parts
    )


def _unzip(archive: StagedFile, folder: Path, settings: Settings) -> Iterator[StagedFile]:
    with zipfile.ZipFile(archive.path) as opened:
        members = opened.infolist()
        _check_count(archive.name, len(members), settings)
        budget = _Budget(archive.name, settings)
        for info in members:
            _check_path(archive.name, info.filename)
            kind = (info.external_attr >> 16) & 0o170000
            if kind not in (0, 0o100000, 0o040000):
                raise _refused(
                    archive.name, "archive_link", f"member {info.filename!r} is a link or device"
                )
            budget.check_member(info.filename, info.file_size, info.compress_size)
        for number, info in enumerate(members):
            if info.is_dir():
                continue
            with opened.open(info) as source:
                target = folder / f"{number:06d}"
                budget.copy(info.filename, source, target, info.compress_size)
            yield StagedFile(f"{archive.name}/{info.filename}", target)


def _untar(archive: StagedFile, folder: Path, settings: Settings) -> Iterator[StagedFile]:
    # Streaming mode reads the archive once, so a compressed one is never inflated twice.
    with tarfile.open(archive.path, mode="r|*") as opened:
        budget = _Budget(archive.name, settings)
        for number, info in enumerate(opened):
            _check_count(archive.name, number + 1, settings)
            _check_path(archive.name, info.name)
            if info.isdir():
                continue
            if not info.isreg():
                raise _refused(
                    archive.name, "archive_link", f"member {info.name!r} is a link or device"
                )
            budget.check_member(info.name, info.size, None)
            source = opened.extractfile(info)
            assert source is not None, "a regular file has bytes"
            target = folder / f"{number:06d}"
            budget.copy(info.name, source, target, archive.path.stat().st_size)
            yield StagedFile(f"{archive.name}/{info.name}", target)


class _Budget:
    """Counts what an archive says and what it yields, against the limits."""

    def __init__(self, archive: str, settings: Settings) -> None:
        self._archive = archive
        self._settings = settings
        self._told = 0
        self._seen = 0

    def check_member(self, name: str, told_bytes: int, packed_bytes: int | None) -> None:
        self._told += told_bytes
        self._check_bytes(name, told_bytes)
        self._check_total(self._told)
        if packed_bytes is not None:
            self._check_ratio(name, told_bytes, packed_bytes)

    def copy(self, name: str, source: IO[bytes], target: Path, packed_bytes: int) -> None:
        written = 0
        with target.open("wb") as sink:
            while chunk := source.read(CHUNK_BYTES):
                written += len(chunk)
                self._seen += len(chunk)
                self._check_bytes(name, written)
                self._check_total(self._seen)
                self._check_ratio(name, written, packed_bytes)
                sink.write(chunk)

    def _check_bytes(self, name: str, size: int) -> None:
        limit = self._settings.max_image_bytes
        if size > limit:
            raise _refused(
                self._archive,
                "archive_member_too_large",
                f"member {name!r} has {size} bytes or more; the limit "
                f"(LORAWRIGHT_MAX_IMAGE_BYTES) is {limit}",
            )

    def _check_total(self, total: int) -> None:
        limit = self._settings.max_archive_unpacked_bytes
        if total > limit:
            raise _refused(
                self._archive,
                "archive_too_large",
                f"it unpacks to {total} bytes or more; the limit "
                f"(LORAWRIGHT_MAX_ARCHIVE_UNPACKED_BYTES) is {limit}",
            )

    def _check_ratio(self, name: str, unpacked: int, packed: int) -> None:
        limit = self._settings.max_archive_ratio
        if unpacked > RATIO_FREE_BYTES and unpacked > limit * max(packed, 1):
            raise _refused(
                self._archive,
                "archive_ratio",
                f"member {name!r} unpacks {packed} bytes to {unpacked} or more; the limit "
                f"(LORAWRIGHT_MAX_ARCHIVE_RATIO) is {limit} to 1",
            )


def _check_count(archive: str, count: int, settings: Settings) -> None:
    limit = settings.max_archive_members
    if count > limit:
        raise _refused(
            archive,
            "archive_too_many_members",
            f"it has {count} members or more; the limit (LORAWRIGHT_MAX_ARCHIVE_MEMBERS) "
            f"is {limit}",
        )


def _check_path(archive: str, name: str) -> None:
    """We never write under a member's name, but one that tries to escape is a sign of malice."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or DRIVE.match(name):
        raise _refused(archive, "archive_path", f"member {name!r} points outside the archive")


def _refused(archive: str, code: str, reason: str) -> ArchiveUnsafe:
    detail = f"{archive} is refused: {reason}"
    return ArchiveUnsafe(detail, [FieldProblem("/files", detail, code)])
