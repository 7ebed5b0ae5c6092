"""Archives sent straight to storage: in parts, resumed, checked, unpacked by the worker."""

import hashlib
import io
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image as PillowImage
from sqlalchemy import select, update
from starlette.testclient import TestClient

from app.accounts.models import Account
from app.database import transaction, utc_now
from app.datasets.models import Image, Upload
from app.datasets.uploads import expire_uploads, part_bytes
from app.retention.models import DoomedObject
from app.retention.service import sweep_doomed
from app.settings import get_settings
from app.storage import get_store
from tests.app.conftest import MakeDataset
from tests.pictures import archive, picture
from worker import chores
from worker.runner import run_next

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def work_dir(tmp_path: Path, clean: Any, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: ARG001
    get_store().delete(get_store().list_keys(""))
    small = get_settings().model_copy(update={"work_dir": tmp_path})
    monkeypatch.setattr("worker.workspace.get_settings", lambda: small)
    return tmp_path


@pytest.fixture
def dataset_id(make_dataset: MakeDataset) -> str:
    return make_dataset()


def begin(
    client: TestClient, dataset_id: str, data: bytes, name: str = "set.zip", **fields: Any
) -> dict[str, Any]:
    request = {"filename": name, "size": len(data), **fields}
    answer = client.post(f"/v1/datasets/{dataset_id}/uploads", json=request)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def send(upload: dict[str, Any], data: bytes, numbers: set[int] | None = None) -> dict[int, str]:
    """PUT the parts that have an address; the etag of each."""
    etags = {}
    for part in upload["parts"]:
        if part["url"] is None or (numbers is not None and part["number"] not in numbers):
            continue
        start = (part["number"] - 1) * upload["part_size"]
        answer = httpx.put(part["url"], content=data[start : start + part["size"]])
        assert answer.status_code == 200, answer.text
        etags[part["number"]] = answer.headers["ETag"]
    return etags


def path_of(upload: dict[str, Any], ending: str = "") -> str:
    return f"/v1/datasets/{upload['dataset']}/uploads/{upload['id']}{ending}"


def complete(client: TestClient, upload: dict[str, Any], etags: dict[int, str]) -> httpx.Response:
    parts = [{"number": number, "etag": etag} for number, etag in etags.items()]
    return client.post(path_of(upload, "/complete"), json={"parts": parts})


def pictures_tar(count: int, filler: int = 0) -> bytes:
    """A tar of pictures, and a text of so many bytes that no caption would have."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for number in range(count):
            data = picture(number)
            info = tarfile.TarInfo(f"5_set/{number}.png")
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
        if filler:
            info = tarfile.TarInfo("filler.bin")
            info.size = filler
            opened.addfile(info, io.BytesIO(bytes(filler)))
    return buffer.getvalue()


def test_an_archive_in_parts_becomes_images_with_measures_and_a_report(
    client: TestClient, dataset_id: str, work_dir: Path
) -> None:
    data = pictures_tar(3, filler=20 * MIB)
    upload = begin(client, dataset_id, data, "set.tar", sha256=hashlib.sha256(data).hexdigest())
    assert upload["id"].startswith("up_")
    assert upload["status"] == "receiving"
    assert [part["size"] for part in upload["parts"]] == [8 * MIB, 8 * MIB, len(data) - 16 * MIB]
    answer = complete(client, upload, send(upload, data))
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "unpacking"
    assert client.get(f"/v1/datasets/{dataset_id}").json()["status"] == "processing"
    assert run_next("ingest")
    done = client.get(path_of(upload)).json()
    assert (done["status"], done["accepted"], done["rejected"]) == ("kept", 3, 1)
    codes = {item["filename"]: item["code"] for item in done["files"]}
    assert codes["set.tar/filler.bin"] == "unsupported_file"
    images = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    assert {item["image"] for item in done["files"]} == {image["id"] for image in images} | {None}
    assert all(image["repeats"] == 5 and image["measures"]["dhash"] for image in images)
    assert httpx.get(images[0]["thumbnail_url"]).status_code == 200
    assert list(work_dir.iterdir()) == []
    with transaction() as session:
        sweep_doomed(session, get_store())
    assert [key for key in get_store().list_keys("accounts/") if "/uploads/" in key] == []
    # The pictures stay, of course.
    assert httpx.get(images[0]["url"]).status_code == 200


def test_an_upload_is_resumed_with_the_parts_that_are_missing(
    client: TestClient, dataset_id: str
) -> None:
    data = pictures_tar(1, filler=20 * MIB)
    upload = begin(client, dataset_id, data, "set.tar")
    etags = send(upload, data, {1, 3})
    refused = complete(client, upload, etags)
    assert (refused.status_code, refused.json()["code"]) == (409, "upload_incomplete")
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/parts/2"]
    resumed = client.get(path_of(upload)).json()
    assert [part["url"] is None for part in resumed["parts"]] == [True, False, True]
    assert resumed["parts"][0]["etag"] == etags[1].strip('"')
    etags |= send(resumed, data)
    assert complete(client, upload, etags).status_code == 200
    # Once more, as a client would whose connection broke.
    again = complete(client, upload, etags)
    assert (again.status_code, again.json()["status"]) == (200, "unpacking")
    assert run_next("ingest")
    assert not run_next("ingest")
    assert client.get(path_of(upload)).json()["status"] == "kept"


def test_a_try_to_complete_that_was_cut_off_in_the_middle_is_taken_up(
    client: TestClient, dataset_id: str
) -> None:
    data = archive({"a.png": picture(1)})
    upload = begin(client, dataset_id, data)
    send(upload, data)
    with transaction() as session:
        row = session.get_one(Upload, upload["id"])
        key, store_id = row.object_key, row.store_upload_id
    store = get_store()
    store.complete_parts(key, store_id, store.parts(key, store_id))
    answer = client.post(path_of(upload, "/complete"))
    assert (answer.status_code, answer.json()["status"]) == (200, "unpacking")


def test_other_parts_than_storage_has_are_refused(client: TestClient, dataset_id: str) -> None:
    data = archive({"a.png": picture(1)})
    upload = begin(client, dataset_id, data)
    send(upload, data)
    answer = complete(client, upload, {1: "0" * 32})
    assert answer.status_code == 422
    assert "another etag" in answer.json()["errors"][0]["detail"]
    assert client.get(path_of(upload)).json()["status"] == "receiving"


def refused(client: TestClient, dataset_id: str, data: bytes, **fields: Any) -> dict[str, Any]:
    upload = begin(client, dataset_id, data, **fields)
    assert complete(client, upload, send(upload, data)).status_code == 200
    assert run_next("ingest")
    found: dict[str, Any] = client.get(path_of(upload)).json()
    assert found["status"] == "refused"
    with transaction() as session:
        assert session.scalars(select(Image)).all() == []
    # The sweeper removes the archive of a job that has ended.
    chores.sweep()
    assert get_store().list_keys("accounts/") == []
    return found


def test_another_hash_than_was_told_keeps_nothing(client: TestClient, dataset_id: str) -> None:
    found = refused(client, dataset_id, archive({"a.png": picture(1)}), sha256="0" * 64)
    assert found["error"]["code"] == "archive_damaged"
    assert found["error"]["retryable"] is False


def test_a_hostile_archive_keeps_nothing(
    client: TestClient, dataset_id: str, work_dir: Path
) -> None:
    found = refused(client, dataset_id, archive({"a.png": picture(1), "../b.png": picture(2)}))
    assert found["error"]["code"] == "archive_unsafe"
    assert "'../b.png'" in found["error"]["message"]
    assert list(work_dir.iterdir()) == []


def test_an_archive_without_pictures_tells_of_each_file_why(
    client: TestClient, dataset_id: str
) -> None:
    members = {"a.png": b"no picture", "b.exe": b"MZ", "c.txt": b"of nothing"}
    found = refused(client, dataset_id, archive(members))
    assert found["error"]["code"] == "upload_rejected"
    assert {item["code"] for item in found["files"]} == {
        *("not_an_image", "unsupported_file", "caption_without_image")
    }


def test_an_archive_that_would_be_too_much_for_the_dataset_keeps_nothing(
    client: TestClient, dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = get_settings().model_copy(update={"max_images_per_dataset": 2})
    monkeypatch.setattr("app.accounts.quotas.get_settings", lambda: small)
    found = refused(client, dataset_id, archive({f"{n}.png": picture(n) for n in range(3)}))
    assert found["error"]["code"] == "too_large"
    assert found["accepted"] == 0


def limit_bytes(limit: int) -> None:
    with transaction() as session:
        session.execute(update(Account).values(limits={"stored_bytes": limit}))


def test_an_archive_over_what_the_account_may_store_is_not_begun(
    client: TestClient, dataset_id: str
) -> None:
    limit_bytes(1000)
    path = f"/v1/datasets/{dataset_id}/uploads"
    request = {"filename": "a.zip", "size": 600}
    assert client.post(path, json=request).status_code == 201
    # What is under way counts.
    answer = client.post(path, json=request)
    assert (answer.status_code, answer.json()["code"]) == (403, "quota_exceeded")


def test_one_that_unpacks_to_more_than_the_account_may_store_keeps_nothing(
    client: TestClient, dataset_id: str
) -> None:
    # Blank pictures, which a zip packs well.
    buffer = io.BytesIO()
    PillowImage.new("RGB", (300, 300)).save(buffer, "BMP")
    data = archive({"a.bmp": buffer.getvalue()})
    limit_bytes(len(data) + 1000)
    found = refused(client, dataset_id, data)
    assert found["error"]["code"] == "quota_exceeded"
    assert found["files"][0]["status"] == "rejected"


def test_an_aborted_upload_is_gone(client: TestClient, dataset_id: str) -> None:
    data = archive({"a.png": picture(1)})
    upload = begin(client, dataset_id, data)
    send(upload, data)
    assert client.delete(path_of(upload)).status_code == 204
    assert client.delete(path_of(upload)).status_code == 204
    found = client.get(path_of(upload)).json()
    assert (found["status"], found["parts"]) == ("aborted", [])
    answer = client.post(path_of(upload, "/complete"))
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    late = httpx.put(upload["parts"][0]["url"], content=data)
    assert late.status_code == 404


def test_an_upload_that_was_received_cannot_be_aborted(client: TestClient, dataset_id: str) -> None:
    data = archive({"a.png": picture(1)})
    upload = begin(client, dataset_id, data)
    complete(client, upload, send(upload, data))
    assert client.delete(path_of(upload)).status_code == 409


def test_one_that_takes_too_long_expires(client: TestClient, dataset_id: str) -> None:
    data = archive({"a.png": picture(1)})
    late, young = begin(client, dataset_id, data), begin(client, dataset_id, data)
    send(late, data)
    with transaction() as session:
        session.execute(
            update(Upload)
            .where(Upload.id == late["id"])
            .values(expires_at=utc_now() - timedelta(seconds=1))
        )
    with transaction() as session:
        assert expire_uploads(session, get_store()) == 1
        assert expire_uploads(session, get_store()) == 0
        assert session.scalar(select(DoomedObject.object_key)) is not None
    assert client.get(path_of(late)).json()["status"] == "expired"
    assert client.get(path_of(young)).json()["status"] == "receiving"
    assert httpx.put(late["parts"][0]["url"], content=data).status_code == 404


def test_what_cannot_be_received_is_not_begun(
    client: TestClient, dataset_id: str, subtests: pytest.Subtests
) -> None:
    for request, status, fact in (
        ({"filename": "a.png", "size": 5}, 422, ".zip"),
        ({"filename": "a.zip", "size": 0}, 422, "greater"),
        ({"filename": "a.zip", "size": 5, "sha256": "xyz"}, 422, "sha256"),
        ({"filename": "a.zip", "size": 21 * 1024**3}, 413, "LORAWRIGHT_MAX_ARCHIVE_BYTES"),
    ):
        with subtests.test(fact):
            answer = client.post(f"/v1/datasets/{dataset_id}/uploads", json=request)
            assert answer.status_code == status
            assert fact in answer.json()["detail"]


def test_uploads_are_seen_by_their_account_alone(
    client: TestClient, other_client: TestClient, dataset_id: str
) -> None:
    upload = begin(client, dataset_id, b"PK")
    for ending, method in (("", "GET"), ("", "DELETE"), ("/complete", "POST")):
        assert other_client.request(method, path_of(upload, ending)).status_code == 404
    assert (
        other_client.post(
            f"/v1/datasets/{dataset_id}/uploads", json={"filename": "a.zip", "size": 5}
        ).status_code
        == 404
    )


@pytest.mark.parametrize("size", [1, 8 * MIB, 4 * 1024**3, 20 * 1024**3])
def test_parts_are_of_a_size_that_storage_takes(size: int) -> None:
    each = part_bytes(size)
    assert 5 * MIB <= each <= 5 * 1024**3
    assert -(-size // each) <= 500
