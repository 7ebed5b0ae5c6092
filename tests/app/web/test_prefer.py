"""A client that would rather wait gets the job as it ended."""

import threading
import time

import pytest

from app.database import transaction
from app.jobs import claiming, lifecycle

GENERATION = {"prompt": "a red apple", "width": 64, "height": 64, "steps": 2}


def post(client, prefer, **headers):
    told = {"Prefer": prefer} | headers
    return client.post("/v1/generations", json=GENERATION, headers=told)


def cancel_soon() -> threading.Thread:
    """End the next job as a worker would, once it is there."""

    def run() -> None:
        while True:
            with transaction() as session:
                claim = claiming.claim(session, "generate", "w")
                if claim is not None:
                    lifecycle.finish(session, claim, "canceled", gpu_seconds=0.5)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_the_answer_comes_when_the_job_has_ended(client):
    worker = cancel_soon()
    answer = post(client, "wait=30")
    worker.join()
    assert answer.status_code == 201
    assert answer.headers["Preference-Applied"] == "wait=30"
    assert answer.json()["status"] == "canceled"
    assert answer.json()["usage"]["gpu_seconds"] == 0.5
    assert int(answer.headers["Content-Length"]) == len(answer.content)


def test_the_answer_comes_when_the_time_is_over(client):
    answer = post(client, "respond-async, wait=1")
    assert (answer.status_code, answer.json()["status"]) == (201, "queued")


def test_a_repeated_request_waits_for_the_first_ones_job(client):
    first = client.post("/v1/generations", json=GENERATION, headers={"Idempotency-Key": "k"})
    worker = cancel_soon()
    again = post(client, "wait=30", **{"Idempotency-Key": "k"})
    worker.join()
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["status"] == "canceled"


def test_an_error_is_answered_at_once(client):
    answer = client.post("/v1/generations", json={}, headers={"Prefer": "wait=60"})
    assert answer.status_code == 422
    assert "Preference-Applied" not in answer.headers


def test_what_is_no_job_is_not_waited_for(client):
    body = {"name": "ink", "task": "style", "trigger_word": "inkstyle"}
    answer = client.post("/v1/datasets", json=body, headers={"Prefer": "wait=60"})
    assert answer.status_code == 201
    assert "Preference-Applied" not in answer.headers


@pytest.mark.parametrize("seconds", ["0", "61", "x", "-1", "1.5", ""])
def test_a_wait_outside_its_limits_is_refused(client, seconds):
    answer = post(client, f"wait={seconds}")
    assert answer.status_code == 422
    assert "1 to 60 seconds" in answer.json()["detail"]
