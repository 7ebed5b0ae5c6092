"""Archives and pictures made to harm: refused with the reason, nothing kept, nothing left over."""

import gzip
import io
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image as PillowImage
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app.database import transaction
from app.datasets.intake.archives import unpack
from app.datasets.intake.staging import StagedFile
from app.datasets.models import Image
from app.errors import ArchiveUnsafe, ServiceUnavailable
from app.settings import get_settings
from app.storage import get_store
from tests.app.conftest import MakeDataset
from tests.pictures import archive, picture


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where requests keep their files; empty after each test."""
    folder = tmp_path / "requests"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def zip_of(members: list[tuple[str | zipfile.ZipInfo, bytes]], method: int) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        with zipfile.ZipFile(buffer, "w", method) as opened:
            for name, data in members:
                opened.writestr(name, data)
    return buffer.getvalue()


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for info, data in members:
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def flat_bomb() -> bytes:
    return archive({"a.png": bytes(32 * 1024 * 1024)})


def ending(count: int, size: int, start: int) -> bytes:
    """The last record of a zip: how many members, and where its directory lies."""
    return struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, size, start, 0)


def quoted_bomb(copies: int = 50) -> bytes:
    """Many members over the same bytes: the directory points at one header again and again."""
    whole = zip_of([("a.png", picture(1))], zipfile.ZIP_DEFLATED)
    start = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    entry = whole[start:end]
    tail = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, copies, copies, len(entry) * copies, start, 0
    )
    return whole[:start] + entry * copies + tail


def shifted_quote() -> bytes:
    """The second member begins inside the first one's data."""
    inner = zip_of([("b.png", picture(2))], zipfile.ZIP_STORED)
    local = inner[: inner.index(b"PK\x01\x02")]
    outer = zip_of([("a.png", local)], zipfile.ZIP_STORED)
    start, end = outer.index(b"PK\x01\x02", len(local)), outer.index(b"PK\x05\x06")
    first = outer[start:end]
    second = bytearray(inner[inner.index(b"PK\x01\x02") : inner.index(b"PK\x05\x06")])
    struct.pack_into("<I", second, 42, 35)  # right behind the first local header
    both = first + bytes(second)
    return outer[:start] + both + ending(2, len(both), start)


def many_members(count: int = 100_000) -> bytes:
    return zip_of([(f"{number}.txt", b"") for number in range(count)], zipfile.ZIP_STORED)


def told_few_has_many() -> bytes:
    """A directory of 20,000 members that says it has ten."""
    data = bytearray(many_members(20_000))
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<HH", data, end + 8, 10, 10)
    return bytes(data)


def lying(central: bool, size: int) -> bytes:
    """A member whose header, local or central, tells another size than it has."""
    data = bytearray(archive({"a.png": bytes(8 * 1024 * 1024)}))
    if central:
        struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, size)
    else:
        struct.pack_into("<I", data, 22, size)
    return bytes(data)


def encrypted() -> bytes:
    """Marked as encrypted in both headers."""
    data = bytearray(archive({"a.png": picture(1)}))
    struct.pack_into("<H", data, 6, 1)
    struct.pack_into("<H", data, data.rindex(b"PK\x01\x02") + 8, 1)
    return bytes(data)


def with_nul() -> bytes:
    data = archive({"aXb.png": picture(1)})
    return data.replace(b"aXb.png", b"a\0b.png")


def links(kind: int) -> bytes:
    info = zipfile.ZipInfo("a.png")
    info.external_attr = kind << 16
    return zip_of([(info, b"/etc/passwd")], zipfile.ZIP_STORED)


def special(kind: bytes) -> bytes:
    info = tarfile.TarInfo("a.png")
    info.type, info.linkname = kind, "/etc/passwd"
    return tar_of((info, b""))


def long_header() -> bytes:
    """A few kilobytes that announce a name of 64 MiB."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 64 * 1024 * 1024
    head = info.tobuf(tarfile.GNU_FORMAT)
    return gzip.compress(head + bytes(info.size) + bytes(1024), compresslevel=9)


def headers_without_end() -> bytes:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 0
    return info.tobuf(tarfile.USTAR_FORMAT) * 5000 + bytes(1024)


def sparse() -> bytes:
    info = tarfile.TarInfo("a.png")
    info.type = tarfile.GNUTYPE_SPARSE
    return tar_of((info, b""))


def tar_bomb() -> bytes:
    return gzip.compress(tar_of((tarfile.TarInfo("a.png"), bytes(60 * 1024 * 1024))))


CASES: dict[str, tuple[str, Callable[[], bytes], str, str]] = {
    "a flat bomb": ("a.zip", flat_bomb, "archive_ratio", "200 to 1"),
    "a tar bomb": ("a.tar.gz", tar_bomb, "archive_ratio", "200 to 1"),
    "members over the same bytes": ("a.zip", quoted_bomb, "archive_overlap", "overlaps"),
    "a member inside another": ("a.zip", shifted_quote, "archive_overlap", "overlaps"),
    "a hundred thousand members": (
        *("a.zip", many_members, "archive_too_many_members"),
        "LORAWRIGHT_MAX_ARCHIVE_MEMBERS) is 10000",
    ),
    "a false count": ("a.zip", told_few_has_many, "archive_too_many_members", "10001 members"),
    "a central size too small": ("a.zip", lambda: lying(True, 10), "archive_broken", ""),
    "a central size too large": (
        *("a.zip", lambda: lying(True, 2**32 - 2), "archive_member_too_large"),
        "LORAWRIGHT_MAX_IMAGE_BYTES",
    ),
    "a password": ("a.zip", encrypted, "archive_encrypted", "'a.png'"),
    "an unusual method": (
        *("a.zip", lambda: zip_of([("a.png", picture())], zipfile.ZIP_LZMA), "archive_method"),
        "method 14",
    ),
    "a way up": ("a.zip", lambda: archive({"../a.png": picture()}), "archive_path", "'../a.png'"),
    "a hidden way up": (
        *("a.zip", lambda: archive({"a/../../b.png": picture()}), "archive_path", "outside"),
    ),
    "a root": ("a.zip", lambda: archive({"/etc/a.png": picture()}), "archive_path", "outside"),
    "a drive": ("a.zip", lambda: archive({"C:\\a.png": picture()}), "archive_path", "outside"),
    "backslashes": (
        *("a.zip", lambda: archive({"a\\..\\..\\b.png": picture()}), "archive_path", "outside"),
    ),
    "a server": ("a.zip", lambda: archive({"\\\\host\\a.png": b"x"}), "archive_path", "outside"),
    "a NUL": ("a.zip", with_nul, "archive_path", "outside"),
    "a symbolic link in a zip": ("a.zip", lambda: links(0o120777), "archive_link", "'a.png'"),
    "a device in a zip": ("a.zip", lambda: links(0o020666), "archive_link", "'a.png'"),
    "a symbolic link": ("a.tar", lambda: special(tarfile.SYMTYPE), "archive_link", "'a.png'"),
    "a hard link": ("a.tar", lambda: special(tarfile.LNKTYPE), "archive_link", "'a.png'"),
    "a character device": ("a.tar", lambda: special(tarfile.CHRTYPE), "archive_link", "'a.png'"),
    "a block device": ("a.tar", lambda: special(tarfile.BLKTYPE), "archive_link", "'a.png'"),
    "a pipe": ("a.tar", lambda: special(tarfile.FIFOTYPE), "archive_link", "'a.png'"),
    "a sparse member": ("a.tar", sparse, "archive_", ""),
    "a header of megabytes": ("a.tgz", long_header, "archive_broken", "a header has over"),
    "headers without end": ("a.tar", headers_without_end, "archive_broken", ""),
    "an unfinished zip": (
        "a.zip",
        lambda: archive({"a.png": picture()})[:-30],
        "archive_broken",
        "",
    ),
    "an unfinished tar": (
        *("a.tar", lambda: tar_of((tarfile.TarInfo("a.png"), picture(1)))[:4000]),
        *("archive_broken", ""),
    ),
    "an unfinished gzip": ("a.tgz", lambda: gzip.compress(bytes(99))[:-5], "archive_broken", ""),
    "no archive at all": ("a.zip", lambda: b"PK\x03\x04 not really", "archive_broken", ""),
    "xz by another name": (
        *("a.tar", lambda: b"\xfd7zXZ\x00\x00\x04" + bytes(2000), "archive_broken", ""),
    ),
}


def test_a_hostile_archive_is_refused_whole(
    client: TestClient, make_dataset: MakeDataset, subtests: pytest.Subtests
) -> None:
    get_store().delete(get_store().list_keys(""))
    dataset_id = make_dataset()
    for case, (name, make, code, fact) in CASES.items():
        with subtests.test(case):
            files = [
                ("files", ("good.png", picture(7), "image/png")),
                ("files", (name, make(), "application/octet-stream")),
            ]
            answer = client.post(f"/v1/datasets/{dataset_id}/images", files=files)
            assert answer.status_code == 422, answer.text
            problem = answer.json()
            assert problem["code"] == "archive_unsafe"
            assert problem["errors"][0]["code"].startswith(code), problem
            assert fact in problem["detail"]
            assert list(Path(tempfile.gettempdir()).iterdir()) == []
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(Image)) == 0
    assert get_store().list_keys("accounts/") == []


def test_what_a_local_header_lies_about_does_not_matter(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    data = bytearray(archive({"a.png": picture(1)}))
    struct.pack_into("<I", data, 22, 2**32 - 2)
    files = [("files", ("a.zip", bytes(data), "application/zip"))]
    answer = client.post(f"/v1/datasets/{make_dataset()}/images", files=files)
    assert answer.status_code == 201, answer.text


def test_archives_in_archives_are_named_and_not_unpacked(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    nested = archive({"a.zip": archive({"b.zip": flat_bomb()}), "a.png": picture(1)})
    files = [("files", ("outer.zip", nested, "application/zip"))]
    answer = client.post(f"/v1/datasets/{make_dataset()}/images", files=files).json()
    found = {item["filename"]: item["code"] for item in answer["data"]}
    assert found == {"outer.zip/a.zip": "archive_nested", "outer.zip/a.png": None}


def test_counting_a_giant_directory_makes_no_giant_list(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "many.zip"
    path.write_bytes(many_members())
    folder = tmp_path / "members"
    folder.mkdir()
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveUnsafe):
            list(unpack(StagedFile("many.zip", path), folder, get_settings()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 1024 * 1024


def test_a_full_disk_is_not_blamed_on_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(archive({"a.png": picture(1)}))
    (tmp_path / "members").mkdir()
    (tmp_path / "members" / "000000").symlink_to("/dev/full")
    with pytest.raises(ServiceUnavailable, match="No space left"):
        list(unpack(StagedFile("set.zip", path), tmp_path / "members", get_settings()))


def saved(format_: str, **options: object) -> bytes:
    frames = [PillowImage.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, format_, save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int) -> bytes:
    """A PNG that tells its size truly, of zeros that hardly take room."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1024))
    chunks = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def webp_of(width: int, height: int) -> bytes:
    """A WebP whose header tells of a giant canvas."""
    whole = bytearray(picture(1, format_="WEBP"))
    canvas = struct.pack("<I", 0x10) + (width - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + canvas + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + extended + bytes(whole[12:])
    return b"RIFF" + struct.pack("<I", len(body)) + body


def avif_of(width: int, height: int) -> bytes:
    """An AVIF whose image properties tell of a giant picture."""
    whole = bytearray(picture(1, format_="AVIF"))
    place = whole.index(b"ispe")
    struct.pack_into(">II", whole, place + 8, width, height)
    return bytes(whole)


def text_bomb() -> bytes:
    """A PNG with a compressed comment of 100 MB."""
    whole = picture(1)
    data = b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9)
    chunk = (
        struct.pack(">I", len(data))
        + b"zTXt"
        + data
        + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    )
    return whole[:33] + chunk + whole[33:]


PICTURES: dict[str, tuple[str, Callable[[], bytes], set[str]]] = {
    "a giant PNG": ("a.png", lambda: png_of(60_000, 60_000), {"image_too_many_pixels"}),
    "a wide PNG": ("a.png", lambda: png_of(2_000_000_000, 1), {"image_too_many_pixels"}),
    "a giant WebP": (
        *("a.webp", lambda: webp_of(16_000, 16_000)),
        {"image_too_many_pixels", "not_an_image"},
    ),
    "a giant AVIF": (
        *("a.avif", lambda: avif_of(60_000, 60_000)),
        {"image_too_many_pixels", "not_an_image"},
    ),
    "a comment of megabytes": ("a.png", text_bomb, {"not_an_image", "image_broken"}),
    "a GIF": ("a.gif", lambda: saved("GIF"), {"unsupported_file"}),
    "a GIF by another name": ("a.png", lambda: saved("GIF"), {"not_an_image"}),
    "a moving PNG": ("a.png", lambda: saved("PNG"), {"image_animated"}),
    "a moving WebP": ("a.webp", lambda: saved("WEBP"), {"image_animated"}),
    "a moving AVIF": ("a.avif", lambda: saved("AVIF"), {"image_animated"}),
    "half a PNG": ("a.png", lambda: picture(1, width=300)[:9000], {"image_broken"}),
    "half a WebP": (
        *("a.webp", lambda: picture(1, width=300, format_="WEBP")[:3000]),
        {"image_broken", "not_an_image"},
    ),
    "half an AVIF": (
        *("a.avif", lambda: picture(1, width=300, format_="AVIF")[:2000]),
        {"image_broken", "not_an_image"},
    ),
    "half a BMP": ("a.bmp", lambda: picture(1, format_="BMP")[:900], {"image_broken"}),
    "a mask": ("a-masklabel.png", lambda: picture(1), {"mask_unsupported"}),
}


def test_a_hostile_picture_is_refused_with_its_reason(
    client: TestClient, make_dataset: MakeDataset, subtests: pytest.Subtests
) -> None:
    dataset_id = make_dataset()
    for case, (name, make, codes) in PICTURES.items():
        with subtests.test(case):
            files = [("files", (name, make(), "image/png"))]
            answer = client.post(f"/v1/datasets/{dataset_id}/images", files=files)
            assert answer.status_code == 422, answer.text
            [error] = answer.json()["errors"]
            assert error["code"] in codes, error


def test_a_camera_s_picture_with_a_second_one_behind_it_is_a_jpeg(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    frames = [PillowImage.open(io.BytesIO(picture(n))).convert("RGB") for n in range(2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "MPO", save_all=True, append_images=frames[1:])
    dataset_id = make_dataset()
    files = [("files", ("a.jpg", buffer.getvalue(), "image/jpeg"))]
    assert client.post(f"/v1/datasets/{dataset_id}/images", files=files).status_code == 201
    [image] = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    assert image["format"] == "jpeg"
