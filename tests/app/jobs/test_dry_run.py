"""`dry_run` checks everything, tells what it would take, and leaves nothing behind."""

import pytest
from sqlalchemy import func, select

from app.database import transaction, utc_now
from app.generations.models import GeneratedImage, InputImage
from app.idempotency.models import IdempotencyRecord
from app.jobs.models import Job
from app.storage import get_store
from app.trainings.models import TrainingMetric
from tests.app.generations.test_inputs import data_url, png
from tests.app.generations.test_submission import make_lora


def try_out(client, kind: str, **body):
    return client.post(f"/v1/{kind}?dry_run=true", json=body)


def end(job_id: str, gpu_seconds: float) -> None:
    """Let a job have succeeded in so many seconds."""
    with transaction() as session:
        job = session.get_one(Job, job_id)
        job.status, job.gpu_seconds, job.ended_at = "succeeded", gpu_seconds, utc_now()


def count(model) -> int:
    with transaction() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0


def test_nothing_is_kept_of_a_generation_that_is_tried(client):
    before = set(get_store().list_keys(""))
    answer = client.post(
        "/v1/generations?dry_run=true",
        json={"prompt": "a fox", "init_image": data_url(png())},
        headers={"Idempotency-Key": "one"},
    )
    assert answer.status_code == 200, answer.text
    assert (count(Job), count(InputImage), count(IdempotencyRecord)) == (0, 0, 0)
    assert set(get_store().list_keys("")) == before
    real = client.post(
        "/v1/generations", json={"prompt": "a fox"}, headers={"Idempotency-Key": "one"}
    )
    assert real.status_code == 201, "the key stayed free"


def test_the_same_checks_are_made(client, make_dataset):
    broken = try_out(client, "generations", prompt="a fox", init_image=data_url(b"no picture"))
    assert (broken.status_code, broken.json()["code"]) == (422, "image_unusable")
    empty = try_out(client, "trainings", dataset=make_dataset(), name="x")
    assert (empty.status_code, empty.json()["code"]) == (422, "dataset_empty")


def test_time_is_told_from_what_was_measured_and_grows_with_the_work(client):
    body = {"prompt": "a fox", "steps": 10, "width": 64, "height": 64}
    told = try_out(client, "generations", **body).json()
    assert (told["steps"], told["predicted_seconds"], told["memory_bytes"]) == (10, None, None)
    done = client.post("/v1/generations", json=body).json()["id"]
    with transaction() as session:
        session.add(
            GeneratedImage(
                generation_id=done,
                index=0,
                seed=1,
                width=64,
                height=64,
                format="png",
                object_key="none",
                sha256="0" * 64,
                bytes=1,
            )
        )
    end(done, 2.0)
    assert try_out(client, "generations", **body).json()["predicted_seconds"] == 2.0
    body |= {"steps": 20, "num_images": 3}
    assert try_out(client, "generations", **body).json()["predicted_seconds"] == 12.0


def test_the_place_in_the_queue_counts_those_who_wait(client):
    first = try_out(client, "generations", prompt="a fox").json()["queue"]
    assert first == {"position": 0, "eta_s": None}, "there is no worker"
    for _ in range(3):
        client.post("/v1/generations", json={"prompt": "a fox"})
    assert try_out(client, "generations", prompt="a fox").json()["queue"] == {
        "position": 3,
        "eta_s": None,
    }


def test_what_a_lora_has_no_place_for_is_a_warning(client):
    report = {"matched": 5, "unmatched": {"count": 1, "names": ["odd.weight"]}}
    lora = make_lora(report=report)
    told = try_out(client, "generations", prompt="a fox", loras=[{"lora": lora}]).json()
    assert (told["loras"][0]["matched"], told["loras"][0]["unmatched"]) == (5, ["odd.weight"])
    assert any(lora in warning for warning in told["warnings"])


def test_a_training_tells_its_steps_time_memory_and_doubts(client, make_dataset):
    body = {"dataset": make_dataset(pictures=2), "name": "ink", "params": {"max_steps": 10}}
    jobs = count(Job)
    told = try_out(client, "trainings", **body).json()
    assert (told["steps"], told["predicted_seconds"], told["memory_bytes"]) == (10, None, None)
    assert any("2 images" in warning for warning in told["warnings"])
    assert count(Job) == jobs
    done = client.post("/v1/trainings", json=body).json()["id"]
    with transaction() as session:
        session.add(TrainingMetric(training_id=done, step=1, epoch=0, memory_bytes=7_000_000))
    end(done, 30.0)
    told = try_out(client, "trainings", **body).json()
    assert told["predicted_seconds"] == pytest.approx(30.0)
    assert told["memory_bytes"] == 7_000_000
    body["params"] = {"max_steps": 5, "rank": 3}
    told = try_out(client, "trainings", **body).json()
    assert told["predicted_seconds"] == pytest.approx(15.0)
    assert told["memory_bytes"] is None, "another rank needs another amount"
