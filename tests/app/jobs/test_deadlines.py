"""A client says by when a job is of use."""

from datetime import UTC, datetime, timedelta

import pytest

from app.database import transaction
from app.jobs import lifecycle

GENERATION = {"prompt": "a red apple", "width": 64, "height": 64, "steps": 2}


def post(client, deadline):
    return client.post("/v1/generations", json=GENERATION | {"deadline": deadline})


def test_a_deadline_is_a_time_or_seconds_from_now(client):
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    told = post(client, at.isoformat()).json()
    assert datetime.fromisoformat(told["deadline_at"]) == at
    told = post(client, 7200).json()
    assert abs(datetime.fromisoformat(told["deadline_at"]) - at) < timedelta(minutes=1)
    assert client.post("/v1/generations", json=GENERATION).json()["deadline_at"] is None


@pytest.mark.parametrize(
    ("deadline", "reason"),
    [
        ("2020-01-01T00:00:00Z", "is past"),
        ("2099-01-01T00:00:00Z", "LORAWRIGHT_MAX_DEADLINE_SECONDS"),
        (1e300, "more than a calendar has"),
        ("2099-01-01T00:00:00", "timezone"),
        (0, "more than 0"),
        (-1, "more than 0"),
        (True, "datetime"),
        ("soon", "valid"),
    ],
)
def test_a_deadline_that_cannot_be_one_is_refused(client, deadline, reason):
    answer = post(client, deadline)
    assert answer.status_code == 422
    assert any(
        reason in error["detail"] and error["pointer"].startswith("/deadline")
        for error in answer.json()["errors"]
    ), answer.text


def test_a_queued_job_past_its_deadline_fails_and_says_so(client):
    job = post(client, 0.01).json()
    with transaction() as session:
        lifecycle.sweep_deadlines(session)
    ended = client.get(f"/v1/generations/{job['id']}").json()
    assert (ended["status"], ended["error"]["code"]) == ("failed", "deadline_exceeded")


def test_every_kind_of_job_takes_one(client):
    schema = client.get("/openapi.json").json()["components"]["schemas"]
    for name in ("CaptioningCreate", "TrainingCreate", "GenerationCreate", "ComparisonCreate"):
        assert "deadline" in schema[name]["properties"], name
    for name in ("Convert", "Resize", "Merge", "Extract"):
        assert "deadline" in schema[name]["properties"], name
