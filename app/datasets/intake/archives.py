"""Unpack zip and tar archives that may be hostile, checking while the bytes stream.

What an archive says of itself (sizes, names, kinds) is checked first, since that is cheap; what it
really yields is counted as well, since headers lie. Archives inside archives are not unpacked.
"""

import gzip
import io
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import IO, Any

from app.datasets.intake.staging import StagedFile
from app.disk import write_all
from app.errors import ArchiveUnsafe, FieldProblem
from app.settings import Settings

CHUNK_BYTES = 256 * 1024
DRIVE = re.compile(r"^[A-Za-z]:")
# An unpacked member this small cannot bomb, whatever its ratio.
RATIO_FREE_BYTES = 1024 * 1024
# What may stand between two members of a tar: names, extended attributes.
TAR_HEADER_BYTES = 128 * 1024
MAX_NAME_BYTES = 4096
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
BAD_ARCHIVE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, UnicodeError),
    # RecursionError: a tar whose headers announce headers without end.
    *(EOFError, OSError, NotImplementedError, ValueError, RecursionError),
)
_CENTRAL = struct.Struct("<4s24x3H12x")
_GZIP = b"\x1f\x8b"


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


def is_junk(name: str) -> bool:
    """Whether a file is what desktops leave behind: `__MACOSX`, dot files, thumbnail indexes."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or any(
        part.startswith(".") or part.lower() in {"thumbs.db", "desktop.ini"} for part in parts
    )


def _unzip(archive: StagedFile, folder: Path, settings: Settings) -> Iterator[StagedFile]:
    with archive.path.open("rb") as raw:
        # zipfile would make an object of every member before anyone could count them.
        _check_zip_count(archive.name, raw, settings)
    with zipfile.ZipFile(archive.path) as opened:
        members = opened.infolist()
        budget = _Budget(archive.name, settings)
        for info in members:
            _check_zip_member(archive.name, info)
            budget.check_member(info.filename, info.file_size, info.compress_size)
        _check_overlaps(archive.name, members)
        for number, info in enumerate(members):
            if info.is_dir():
                continue
            with opened.open(info) as source:
                target = folder / f"{number:06d}"
                budget.copy(info.filename, source, target, info.compress_size)
            yield StagedFile(_member_name(archive.name, info.filename), target)


def _check_zip_count(archive: str, raw: IO[bytes], settings: Settings) -> None:
    """Walk the central directory, where zipfile will look for it, and count."""
    # Private, but the only way to look where zipfile looks; a file with two ends has two readings.
    end = zipfile._EndRecData(raw)  # type: ignore[attr-defined]
    if end is None:
        raise zipfile.BadZipFile("it has no zip directory; it may have been cut short")
    size, place = end[zipfile._ECD_SIZE], end[zipfile._ECD_LOCATION]  # type: ignore[attr-defined]
    if end[zipfile._ECD_SIGNATURE] == zipfile.stringEndArchive64:  # type: ignore[attr-defined]
        place -= zipfile.sizeEndCentDir64 + zipfile.sizeEndCentDir64Locator  # type: ignore[attr-defined]
    start = place - size
    if start < 0:
        raise zipfile.BadZipFile("its directory lies outside the file")
    count, at = 0, start
    while at < place:
        raw.seek(at)
        head = raw.read(_CENTRAL.size)
        signature, name, extra, comment = _CENTRAL.unpack(head)
        if signature != b"PK\x01\x02":
            raise zipfile.BadZipFile("its directory is damaged")
        count += 1
        _check_count(archive, count, settings)
        at += _CENTRAL.size + name + extra + comment


def _check_zip_member(archive: str, info: zipfile.ZipInfo) -> None:
    _check_path(archive, info.orig_filename)
    _check_path(archive, info.filename)
    kind = (info.external_attr >> 16) & 0o170000
    if kind not in (0, 0o100000, 0o040000):
        raise _refused(archive, "archive_link", f"member {info.filename!r} is a link or device")
    if info.flag_bits & 0x1:
        raise _refused(archive, "archive_encrypted", f"member {info.filename!r} needs a password")
    if info.compress_type not in METHODS:
        raise _refused(
            archive,
            "archive_method",
            f"member {info.filename!r} is packed by method {info.compress_type}; stored and "
            "deflated ones are read",
        )


def _check_overlaps(archive: str, members: list[zipfile.ZipInfo]) -> None:
    """No byte may serve two members, which is how a small file unpacks to a giant one."""
    ends = 0
    for info in sorted(members, key=lambda info: info.header_offset):
        if info.header_offset < ends:
            raise _refused(
                archive, "archive_overlap", f"member {info.filename!r} overlaps another one"
            )
        # A local header has 30 bytes, the name, and then what belongs to it.
        ends = info.header_offset + 30 + info.compress_size


def _untar(archive: StagedFile, folder: Path, settings: Settings) -> Iterator[StagedFile]:
    packed_bytes = archive.path.stat().st_size
    with archive.path.open("rb") as raw:
        is_gzip = raw.read(2) == _GZIP
    opener: Callable[[Path], Any] = gzip.open if is_gzip else partial(open, mode="rb")
    with opener(archive.path) as plain:
        metered = _Metered(plain, archive.name)
        # Streaming mode reads the archive once, so a compressed one is never inflated twice.
        with tarfile.open(fileobj=metered, mode="r|") as opened:
            budget = _Budget(archive.name, settings)
            count = 0
            while True:
                metered.allow(TAR_HEADER_BYTES)
                info = opened.next()
                if info is None:
                    break
                # tarfile remembers every member otherwise, and what all of them have in common
                # with each.
                opened.members = []  # type: ignore[attr-defined]
                if sum(len(k) + len(v) for k, v in opened.pax_headers.items()) > TAR_HEADER_BYTES:
                    raise _refused(archive.name, "archive_broken", "its headers are too long")
                count += 1
                _check_count(archive.name, count, settings)
                _check_path(archive.name, info.name)
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse():
                    raise _refused(
                        archive.name,
                        "archive_link",
                        f"member {info.name!r} is a link, a device or sparse",
                    )
                budget.check_member(info.name, info.size, None)
                source = opened.extractfile(info)
                assert source is not None, "a regular file has bytes"
                target = folder / f"{count:06d}"
                metered.allow(info.size + TAR_HEADER_BYTES)
                written = budget.copy(info.name, source, target, packed_bytes)
                if written != info.size:
                    raise EOFError(f"member {info.name!r} ends in the middle")
                yield StagedFile(_member_name(archive.name, info.name), target)


class _Metered(io.RawIOBase):
    """A tar's bytes, of which only so many may be read as were allowed.

    tarfile reads a header's extensions into memory at whatever length they claim; a few compressed
    bytes may claim gigabytes.
    """

    def __init__(self, inner: IO[bytes], archive: str) -> None:
        self._inner = inner
        self._archive = archive
        # tarfile reads the first header while it opens.
        self._left = TAR_HEADER_BYTES

    def allow(self, count: int) -> None:
        self._left = count

    def read(self, size: int = -1) -> bytes:
        data = self._inner.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _refused(
                self._archive,
                "archive_broken",
                f"a header has over {TAR_HEADER_BYTES} bytes, which no picture's name needs",
            )
        return data


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

    def copy(self, name: str, source: IO[bytes], target: Path, packed_bytes: int) -> int:
        written = 0
        with FileIO(target, "w") as sink:
            while chunk := source.read(CHUNK_BYTES):
                written += len(chunk)
                self._seen += len(chunk)
                self._check_bytes(name, written)
                self._check_total(self._seen)
                self._check_ratio(name, written, packed_bytes)
                write_all(sink, chunk)
        return written

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
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\0" in name
        or DRIVE.match(name)
        or len(name) > MAX_NAME_BYTES
    ):
        raise _refused(archive, "archive_path", f"member {name[:200]!r} points outside the archive")


def _member_name(archive: str, name: str) -> str:
    """As the answer shows it: no control characters, nor the halves of broken ones."""
    shown = "".join(c if c.isprintable() else "_" for c in name.replace("\\", "/"))
    return f"{archive}/{shown}"


def _refused(archive: str, code: str, reason: str) -> ArchiveUnsafe:
    shown = "".join(c if c.isprintable() else "_" for c in reason)
    detail = f"{archive} is refused: {shown}"
    return ArchiveUnsafe(detail, [FieldProblem("/files", detail, code)])
