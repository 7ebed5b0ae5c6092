"""Deletion: rows at once, bytes by the sweeper, never what a job still needs."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from app.database import transaction, utc_now
from app.datasets.models import Image
from app.jobs.models import Job
from app.retention.service import sweep_doomed
from app.settings import get_settings
from app.storage import get_store
from tests.app.conftest import MakeDataset
from tests.pictures import picture
from worker.runner import run_next


@pytest.fixture(autouse=True)
def empty_bucket(clean: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    get_store().delete(get_store().list_keys(""))
    small = get_settings().model_copy(update={"work_dir": tmp_path})
    monkeypatch.setattr("worker.workspace.get_settings", lambda: small)


def sweep() -> None:
    removed = 1
    while removed:
        with transaction() as session:
            removed = sweep_doomed(session, get_store())


def stored() -> list[str]:
    return get_store().list_keys("accounts/")


def image_ids(client: TestClient, dataset_id: str) -> list[str]:
    found = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    return [image["id"] for image in reversed(found)]


def end(job_id: str, status: str) -> None:
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(status=status))


def test_a_deleted_dataset_leaves_nothing(client: TestClient, make_dataset: MakeDataset) -> None:
    dataset_id = make_dataset(pictures=3)
    assert run_next("ingest")
    assert len(stored()) == 6  # pictures and thumbnails
    assert client.delete(f"/v1/datasets/{dataset_id}").status_code == 204
    assert client.get(f"/v1/datasets/{dataset_id}").status_code == 404
    assert client.delete(f"/v1/datasets/{dataset_id}").status_code == 404
    with transaction() as session:
        assert session.scalars(select(Image)).all() == []
    sweep()
    assert stored() == []


def test_a_picture_of_two_datasets_stays_with_the_other(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    one, other = make_dataset(pictures=2), make_dataset(pictures=3)
    assert run_next("ingest")
    assert run_next("ingest")
    client.delete(f"/v1/datasets/{other}")
    sweep()
    assert len([key for key in stored() if "/images/" in key]) == 2
    assert client.get(f"/v1/datasets/{one}").json()["image_count"] == 2


@pytest.mark.parametrize("kind", ["training", "captioning"])
@pytest.mark.parametrize("status", ["queued", "running"])
def test_what_an_unfinished_job_uses_is_not_deleted(
    client: TestClient, make_dataset: MakeDataset, kind: str, status: str
) -> None:
    dataset_id = make_dataset(pictures=2)
    if kind == "training":
        job = client.post("/v1/trainings", json={"dataset": dataset_id, "name": "x"}).json()
    else:
        job = client.post(f"/v1/datasets/{dataset_id}/captionings", json={}).json()
    end(job["id"], status)
    [image, _] = image_ids(client, dataset_id)
    for path in (f"/v1/datasets/{dataset_id}", f"/v1/datasets/{dataset_id}/images/{image}"):
        answer = client.delete(path)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert job["id"] in answer.json()["detail"]
    assert client.get(f"/v1/datasets/{dataset_id}").json()["image_count"] == 2
    end(job["id"], "succeeded")
    assert client.delete(f"/v1/datasets/{dataset_id}/images/{image}").status_code == 204
    assert client.delete(f"/v1/datasets/{dataset_id}").status_code == 204
    # The job itself is still told of.
    path = f"/v1/{kind}s/{job['id']}"
    assert client.get(path).json()["dataset"] is None


def test_an_image_that_a_training_left_out_may_go(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset_id = make_dataset(pictures=3)
    out, used, _ = image_ids(client, dataset_id)
    client.patch(f"/v1/datasets/{dataset_id}/images/{out}", json={"excluded": True})
    client.post("/v1/trainings", json={"dataset": dataset_id, "name": "x"})
    assert client.delete(f"/v1/datasets/{dataset_id}/images/{used}").status_code == 409
    assert client.delete(f"/v1/datasets/{dataset_id}/images/{out}").status_code == 204


def test_class_pictures_of_a_training_are_not_deleted(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    subject, class_pictures = make_dataset(pictures=2), make_dataset(pictures=3)
    request = {
        "dataset": subject,
        "name": "x",
        "params": {"prior_preservation": {"dataset": class_pictures}},
    }
    assert client.post("/v1/trainings", json=request).status_code == 201
    assert client.delete(f"/v1/datasets/{class_pictures}").status_code == 409


def test_what_a_failed_training_may_be_retried_with_survives_its_dataset(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset_id = make_dataset(pictures=2)
    job = client.post("/v1/trainings", json={"dataset": dataset_id, "name": "x"}).json()
    end(job["id"], "failed")
    assert client.delete(f"/v1/datasets/{dataset_id}").status_code == 204
    sweep()
    assert len([key for key in stored() if "/images/" in key]) == 2
    assert client.post(f"/v1/trainings/{job['id']}/retry").status_code == 201


def test_nor_is_it_kept_for_ever(client: TestClient, make_dataset: MakeDataset) -> None:
    dataset_id = make_dataset(pictures=2)
    job = client.post("/v1/trainings", json={"dataset": dataset_id, "name": "x"}).json()
    end(job["id"], "failed")
    client.delete(f"/v1/datasets/{dataset_id}")
    keep = timedelta(seconds=get_settings().training_state_keep_seconds + 1)
    with transaction() as session:
        session.execute(update(Job).values(ended_at=utc_now() - keep))
    sweep()
    assert stored() == []


def test_deleting_a_dataset_ends_its_uploads_and_its_ingest(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset_id = make_dataset(pictures=1)
    request = {"filename": "a.zip", "size": 10}
    upload = client.post(f"/v1/datasets/{dataset_id}/uploads", json=request).json()
    assert client.delete(f"/v1/datasets/{dataset_id}").status_code == 204
    assert not run_next("ingest")
    with transaction() as session:
        assert [job.status for job in session.scalars(select(Job))] == ["canceled"]
    import httpx

    assert httpx.put(upload["parts"][0]["url"], content=b"x" * 10).status_code == 404


def test_uploads_and_deletions_of_one_picture_at_once_never_lose_it(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    """Whatever the order, an image that a client was told of has its bytes."""
    datasets = [make_dataset() for _ in range(3)]
    data = picture(1)
    stop = threading.Event()
    codes: list[int] = []

    def churn(dataset_id: str) -> None:
        for _ in range(8):
            files = [("files", ("a.png", data, "image/png"))]
            answer = client.post(f"/v1/datasets/{dataset_id}/images", files=files)
            codes.append(answer.status_code)
            image = answer.json()["data"][0]["image"]
            codes.append(client.delete(f"/v1/datasets/{dataset_id}/images/{image}").status_code)
        files = [("files", ("a.png", data, "image/png"))]
        codes.append(client.post(f"/v1/datasets/{dataset_id}/images", files=files).status_code)

    def keep_sweeping() -> None:
        while not stop.is_set():
            sweep()

    with ThreadPoolExecutor(4) as pool:
        sweeping = pool.submit(keep_sweeping)
        for future in [pool.submit(churn, dataset_id) for dataset_id in datasets]:
            future.result()
        stop.set()
        sweeping.result()
    sweep()
    assert set(codes) <= {201, 204}
    with transaction() as session:
        rows = session.scalars(select(Image)).all()
    assert len(rows) == 3
    assert {row.object_key for row in rows} == {key for key in stored() if "/images/" in key}


def test_one_picture_uploaded_at_once_into_one_dataset_is_one_image(
    client: TestClient, make_dataset: MakeDataset
) -> None:
    dataset_id = make_dataset()
    files = [("files", ("a.png", picture(1), "image/png"))]

    def send(_: int) -> dict[str, Any]:
        answer = client.post(f"/v1/datasets/{dataset_id}/images", files=files)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()["data"][0]
        return found

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(8)))
    assert len({answer["image"] for answer in answers}) == 1
    assert sorted(answer["duplicate"] for answer in answers) == [False] + [True] * 7
    assert len(image_ids(client, dataset_id)) == 1
