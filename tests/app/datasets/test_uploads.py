"""What an upload keeps, what it refuses, and that a refused one changes nothing."""

import io
import struct
import tarfile
import zipfile

import pytest
from PIL import Image as PillowImage
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app.broker import get_redis
from app.database import transaction
from app.datasets.models import Image
from app.jobs.models import Job
from app.settings import get_settings
from app.storage import get_store
from tests.app.conftest import MakeDataset
from tests.pictures import archive, picture


def upload(client: TestClient, dataset_id: str, name: str, data: bytes):
    files = [("files", (name, data, "application/octet-stream"))]
    return client.post(f"/v1/datasets/{dataset_id}/images", files=files)


def nothing_is_kept() -> bool:
    with transaction() as session:
        rows = session.scalar(select(func.count()).select_from(Image))
        jobs = session.scalar(select(func.count()).select_from(Job))
    return rows == 0 and jobs == 0 and get_store().list_keys("accounts/") == []


@pytest.fixture(autouse=True)
def empty_bucket(clean):  # noqa: ARG001 (order)
    get_store().delete(get_store().list_keys(""))


def test_pictures_and_their_captions_are_kept(client, make_dataset: MakeDataset):
    dataset_id = make_dataset()
    data = archive({"a/fox.png": picture(1), "a/fox.txt": b"a red fox\n", "a/owl.jpg": picture(2)})
    answer = upload(client, dataset_id, "set.zip", data).json()
    assert (answer["accepted"], answer["rejected"]) == (3, 0)
    assert answer["dataset"]["status"] == "processing"
    images = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    captions = {image["filename"]: (image["caption"], image["caption_source"]) for image in images}
    assert captions == {"fox.png": ("a red fox", "hand"), "owl.jpg": (None, None)}
    key = f"accounts/{_account_of(dataset_id)}/images/{images[0]['sha256']}.png"
    assert get_store().sha256(key) == images[0]["sha256"]


def _account_of(dataset_id: str) -> str:
    from app.datasets.models import Dataset

    with transaction() as session:
        return session.get_one(Dataset, dataset_id).account_id


def test_a_kohya_folder_gives_its_repeats(client, make_dataset):
    dataset_id = make_dataset()
    upload(client, dataset_id, "set.zip", archive({"12_fox/a.png": picture(1)}))
    [image] = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    assert image["repeats"] == 12


def test_junk_in_an_archive_is_named_and_skipped(client, make_dataset):
    dataset_id = make_dataset()
    data = archive(
        {"__MACOSX/._a.png": b"x", ".DS_Store": b"x", "Thumbs.db": b"x", "a.png": picture(1)}
    )
    answer = upload(client, dataset_id, "set.zip", data)
    assert answer.status_code == 201
    codes = {item["filename"]: item["code"] for item in answer.json()["data"]}
    assert codes == {
        "set.zip/__MACOSX/._a.png": "junk",
        "set.zip/.DS_Store": "junk",
        "set.zip/Thumbs.db": "junk",
        "set.zip/a.png": None,
    }


def test_sending_a_picture_again_keeps_one_and_says_so(client, make_dataset):
    dataset_id = make_dataset()
    first = upload(client, dataset_id, "a.png", picture(1)).json()["data"][0]
    again = upload(client, dataset_id, "b.png", picture(1)).json()
    assert again["data"][0]["duplicate"] is True
    assert again["data"][0]["image"] == first["image"]
    assert again["dataset"]["image_count"] == 1


def test_a_caption_sent_later_finds_its_picture(client, make_dataset):
    dataset_id = make_dataset()
    upload(client, dataset_id, "fox.png", picture(1))
    upload(client, dataset_id, "fox.txt", b"\xef\xbb\xbfa fox")
    [image] = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    assert (image["caption"], image["caption_source"]) == ("a fox", "hand")


def _with_orientation() -> bytes:
    image = PillowImage.open(io.BytesIO(picture(3, width=80, height=40)))
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_sizes_are_those_of_the_upright_picture(client, make_dataset):
    dataset_id = make_dataset()
    upload(client, dataset_id, "a.jpg", _with_orientation())
    [image] = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    assert (image["width"], image["height"]) == (40, 80)


def _bomb() -> bytes:
    return archive({"a.png": b"\0" * (32 * 1024 * 1024)})


def _lying_header() -> bytes:
    """A member that says it has ten bytes and unpacks to many."""
    data = bytearray(archive({"a.png": b"\0" * (8 * 1024 * 1024)}))
    central = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, central + 24, 10)
    return bytes(data)


def _symlink_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        info = zipfile.ZipInfo("a.png")
        info.external_attr = 0o120777 << 16
        opened.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def _tar_with(kind: bytes, name: str = "a.png") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        opened.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "code", "fact"),
    [
        ("a.zip", archive({"../a.png": picture(1)}), "archive_path", "'../a.png'"),
        ("a.zip", archive({"/etc/a.png": picture(1)}), "archive_path", "'/etc/a.png'"),
        ("a.zip", archive({"a\\..\\..\\b.png": picture(1)}), "archive_path", "outside"),
        ("a.zip", _bomb(), "archive_ratio", "200 to 1"),
        ("a.zip", _lying_header(), "archive", ""),
        ("a.zip", _symlink_zip(), "archive_link", "'a.png'"),
        ("a.tar", _tar_with(tarfile.SYMTYPE), "archive_link", "'a.png'"),
        ("a.tar", _tar_with(tarfile.LNKTYPE), "archive_link", "'a.png'"),
        ("a.tar", _tar_with(tarfile.CHRTYPE), "archive_link", "'a.png'"),
        ("a.tar", _tar_with(tarfile.REGTYPE, "../a.png"), "archive_path", "'../a.png'"),
        ("a.zip", b"PK\x03\x04 not really", "archive_broken", "a.zip"),
        ("a.zip", archive({"a.png": picture(1)})[:-30], "archive_broken", "a.zip"),
    ],
)
def test_an_unsafe_archive_is_refused_whole(client, make_dataset, name, data, code, fact):
    dataset_id = make_dataset()
    answer = upload(client, dataset_id, name, data)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] in {"archive_unsafe", "upload_rejected"}
    assert problem["errors"][0]["code"].startswith(code) or problem["code"] == "upload_rejected"
    assert fact in problem["detail"]
    assert nothing_is_kept()


def test_a_good_picture_beside_a_trick_is_not_kept_either(client, make_dataset):
    dataset_id = make_dataset()
    data = archive({"good.png": picture(1), "../bad.png": picture(2)})
    assert upload(client, dataset_id, "a.zip", data).status_code == 422
    assert nothing_is_kept()


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.jpg", picture(1, format_="JPEG", width=400, height=400)[:3000], "image_broken"),
        ("a.png", b"This is a text, not a picture.", "not_an_image"),
        ("a.png", b"", "not_an_image"),
        ("a.gif", picture(1, format_="GIF"), "unsupported_file"),
        ("a.png", picture(1, format_="GIF"), "not_an_image"),
        ("a.png", picture(1, width=8, height=8), "image_too_small"),
        ("a.exe", b"MZ", "unsupported_file"),
        ("a.txt", b"\xff\xfe\xfa", "caption_not_utf8"),
        ("a.txt", b"x" * 2001, "caption_too_long"),
        ("a.txt", b"a caption of no picture", "caption_without_image"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_reason(
    client, make_dataset, name, data, code
):
    dataset_id = make_dataset()
    answer = upload(client, dataset_id, name, data)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert problem["code"] == "upload_rejected"
    assert problem["errors"][0]["code"] == code
    assert name in problem["errors"][0]["pointer"]
    assert nothing_is_kept()


def test_a_broken_picture_among_good_ones_is_named_and_the_rest_kept(client, make_dataset):
    dataset_id = make_dataset()
    data = archive({"good.png": picture(1), "bad.jpg": picture(2, format_="JPEG")[:200]})
    answer = upload(client, dataset_id, "a.zip", data).json()
    assert {item["filename"]: item["status"] for item in answer["data"]} == {
        "a.zip/good.png": "accepted",
        "a.zip/bad.jpg": "rejected",
    }


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(client, make_dataset):
    dataset_id = make_dataset()
    header = picture(1)
    # The same file, telling of 60,000 × 60,000 pixels in its header.
    lying = header[:16] + struct.pack(">II", 60_000, 60_000) + header[24:]
    answer = upload(client, dataset_id, "a.png", lying)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["code"] in {"image_too_many_pixels", "not_an_image"}


@pytest.mark.own_servers
def test_uploading_while_storage_is_away_is_a_503_and_changes_nothing(client, make_dataset, clean):
    dataset_id = make_dataset()
    clean.s3.stop()
    try:
        answer = upload(client, dataset_id, "a.png", picture(1))
    finally:
        clean.s3.start()
        clean.s3.wait_ready()
    assert answer.status_code == 503
    problem = answer.json()
    assert (problem["code"], problem["retryable"]) == ("storage_unavailable", True)
    assert answer.headers["retry-after"]
    assert nothing_is_kept()


@pytest.mark.own_servers
def test_submitting_while_redis_is_away_is_a_201_and_the_job_waits(client, make_dataset, clean):
    dataset_id = make_dataset(pictures=1)
    clean.redis.stop()
    try:
        answer = client.post(f"/v1/datasets/{dataset_id}/captionings", json={})
    finally:
        clean.redis.start()
        clean.redis.wait_ready()
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "queued"
    get_redis().ping()


def test_a_dataset_over_its_number_of_images_is_refused(client, make_dataset, monkeypatch):
    dataset_id = make_dataset()
    small = get_settings().model_copy(update={"max_images_per_dataset": 2})
    monkeypatch.setattr("app.accounts.quotas.get_settings", lambda: small)
    data = archive({f"{n}.png": picture(n) for n in range(3)})
    answer = upload(client, dataset_id, "a.zip", data)
    assert answer.status_code == 413
    assert "3 images" in answer.json()["detail"]
    assert "is 2" in answer.json()["detail"]


def test_hand_edits_become_hand_captions(client, make_dataset):
    dataset_id = make_dataset(pictures=1)
    [image] = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    path = f"/v1/datasets/{dataset_id}/images/{image['id']}"
    edited = client.patch(path, json={"caption": "  mine ", "repeats": 3}).json()
    assert (edited["caption"], edited["caption_source"], edited["repeats"]) == ("mine", "hand", 3)
    assert client.patch(path, json={"excluded": True}).json()["caption"] == "mine"
    # Only true and false are truth values.
    assert client.patch(path, json={"excluded": 0}).status_code == 422
    counts = client.get(f"/v1/datasets/{dataset_id}").json()
    assert (counts["image_count"], counts["excluded_count"], counts["captioned_count"]) == (1, 1, 0)
