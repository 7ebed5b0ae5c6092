"""What jobs have taken is counted by day and kind, once."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from app.accounts import usage
from app.accounts.models import Account
from app.database import transaction
from app.jobs import claiming, lifecycle
from app.retention import deletion
from tests.pictures import picture

GENERATION = {"prompt": "a red apple", "width": 64, "height": 64, "steps": 2, "num_images": 3}
ERROR = {"code": "x", "message": "x", "retryable": True}


def claimed() -> claiming.Claim:
    with transaction() as session:
        claim = claiming.claim(session, "generate", "w")
    assert claim is not None
    return claim


def test_every_attempt_counts_its_seconds_and_the_end_its_pictures(client):
    job_id = client.post("/v1/generations", json=GENERATION).json()["id"]
    with transaction() as session:
        lifecycle.release(session, claimed(), gpu_seconds=1.5, reason="worker_stopping")
    with transaction() as session:
        lifecycle.finish(session, claimed(), "succeeded", gpu_seconds=2)
    told = client.get("/v1/usage").json()
    assert told["data"] == [
        {
            "day": usage.today().isoformat(),
            "kind": "generation",
            "jobs": 1,
            "gpu_seconds": 3.5,
            "images": 3,
        }
    ]
    assert told["total"] == {"jobs": 1, "gpu_seconds": 3.5, "images": 3}
    assert client.get(f"/v1/generations/{job_id}").json()["usage"]["gpu_seconds"] == 3.5
    # What is deleted has been paid for all the same.
    with transaction() as session:
        account = session.scalars(select(Account).where(Account.name == "customer")).one()
        deletion.delete_job(session, account.id, job_id, "generation")
    assert client.get("/v1/usage").json()["total"] == told["total"]


def test_a_failed_job_counts_its_seconds_and_no_pictures(client):
    client.post("/v1/generations", json=GENERATION)
    with transaction() as session:
        lifecycle.finish(session, claimed(), "failed", gpu_seconds=2, error=ERROR)
    assert client.get("/v1/usage").json()["total"] == {"jobs": 1, "gpu_seconds": 2, "images": 0}


def test_another_accounts_usage_is_not_seen(client, other_client):
    client.post("/v1/generations", json=GENERATION)
    with transaction() as session:
        lifecycle.finish(session, claimed(), "succeeded", gpu_seconds=2)
    assert other_client.get("/v1/usage").json()["data"] == []


def test_stored_bytes_are_told_by_what_they_are(client):
    body = {"name": "ink", "task": "style", "trigger_word": "inkstyle"}
    dataset = client.post("/v1/datasets", json=body).json()["id"]
    data = picture(1)
    client.post(f"/v1/datasets/{dataset}/images", files={"files": ("a.png", data, "image/png")})
    stored = client.get("/v1/usage").json()["stored_bytes"]
    assert stored["images"] == len(data)
    assert stored["generated"] == 0


@pytest.mark.parametrize(("first", "last"), [(-400, 0), (1, 0)])
def test_a_range_that_is_too_long_or_empty_is_refused(client, first, last):
    today = usage.today()
    days = {
        "from": (today + timedelta(days=first)).isoformat(),
        "to": (today + timedelta(days=last)).isoformat(),
    }
    answer = client.get("/v1/usage", params=days)
    assert answer.status_code == 422
    assert "1 to 366" in answer.json()["detail"]
