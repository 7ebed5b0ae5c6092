"""What a customer deletes is gone: its rows at once, its bytes with the next sweep."""

import pytest
from sqlalchemy import func, select, update

from app.database import new_id, transaction
from app.generations.models import GeneratedImage, Generation
from app.jobs.models import Job, JobEvent
from app.retention import service as retention
from app.storage import get_store
from tests.pictures import picture

GENERATION = {"prompt": "a secret", "width": 64, "height": 64, "steps": 2, "metadata": {"a": "b"}}


@pytest.fixture(autouse=True)
def empty_bucket(client):  # noqa: ARG001 (order)
    get_store().delete(get_store().list_keys("accounts/"))


def sweep() -> None:
    with transaction() as session:
        while retention.sweep_doomed(session, get_store()):
            pass


def drawn(client) -> tuple[str, str]:
    """A generation that has succeeded with one picture: its id and the picture's key."""
    job_id = client.post("/v1/generations", json=GENERATION).json()["id"]
    with transaction() as session:
        job = session.get_one(Job, job_id)
        key = f"accounts/{job.account_id}/jobs/{job_id}/1/0.png"
        get_store().put_bytes(key, b"png", "image/png")
        session.add(
            GeneratedImage(
                generation_id=job_id,
                index=0,
                seed=1,
                width=64,
                height=64,
                format="png",
                object_key=key,
                sha256="0" * 64,
                bytes=3,
            )
        )
        session.execute(
            update(Job).where(Job.id == job_id).values(status="succeeded", gpu_seconds=4)
        )
    return job_id, key


def test_a_deleted_job_is_gone_but_for_what_it_has_cost(client):
    job_id, key = drawn(client)
    assert client.delete(f"/v1/generations/{job_id}").status_code == 204
    for path in (f"/v1/generations/{job_id}", f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/events"):
        assert client.get(path).status_code == 404
    assert client.get("/v1/jobs").json()["data"] == []
    assert client.delete(f"/v1/generations/{job_id}").status_code == 404
    with transaction() as session:
        for table in (Generation, GeneratedImage, JobEvent):
            assert session.scalar(select(func.count()).select_from(table)) == 0
        row = session.get_one(Job, job_id)
        assert (row.gpu_seconds, row.labels, row.request_id) == (4, {}, None)
    sweep()
    assert get_store().list_keys("accounts/") == []
    assert key


def test_a_job_that_has_not_ended_is_not_deleted(client):
    job_id = client.post("/v1/generations", json=GENERATION).json()["id"]
    answer = client.delete(f"/v1/generations/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "cancel it" in answer.json()["detail"]
    assert client.get(f"/v1/generations/{job_id}").status_code == 200


def test_anothers_job_cannot_be_deleted(client, other_client):
    job_id, key = drawn(client)
    assert other_client.delete(f"/v1/generations/{job_id}").status_code == 404
    sweep()
    assert get_store().list_keys("accounts/") == [key]


def test_an_input_is_deleted_with_its_bytes(client, other_client):
    made = client.post("/v1/inputs", files={"file": ("a.png", picture(1), "image/png")}).json()
    assert other_client.delete(f"/v1/inputs/{made['id']}").status_code == 404
    assert client.delete(f"/v1/inputs/{made['id']}").status_code == 204
    assert client.get(f"/v1/inputs/{made['id']}").status_code == 404
    sweep()
    assert get_store().list_keys("accounts/") == []


def test_a_lora_is_deleted_with_its_files(client, other_client):
    from app.loras.models import Lora, LoraFile

    owner = client.post("/v1/generations", json=GENERATION).json()["id"]
    with transaction() as session:
        account_id = session.get_one(Job, owner).account_id
        keys = [f"accounts/{account_id}/loras/a.safetensors", f"accounts/{account_id}/jobs/x/1/p"]
        lora_id = new_id("lora")
        session.add(
            Lora(
                id=lora_id,
                account_id=account_id,
                name="x",
                base_model="emoji-64",
                architecture="emoji-64",
                source="upload",
                rank=1,
                alpha=1,
                object_key=keys[0],
                sha256="0" * 64,
                bytes=3,
                file_metadata={},
            )
        )
        session.flush()
        session.add(
            LoraFile(lora_id=lora_id, layout="peft", object_key=keys[1], sha256="0", bytes=3)
        )
    for key in keys:
        get_store().put_bytes(key, b"abc", "application/octet-stream")
    assert other_client.delete(f"/v1/loras/{lora_id}").status_code == 404
    assert client.delete(f"/v1/loras/{lora_id}").status_code == 204
    assert client.get(f"/v1/loras/{lora_id}").status_code == 404
    sweep()
    assert get_store().list_keys("accounts/") == []
