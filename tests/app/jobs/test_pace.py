"""How soon a waiting job starts, told with its place in the queue."""

from datetime import timedelta

import pytest

from app.accounts import service as accounts
from app.database import new_id, transaction, utc_now
from app.jobs import claiming, lifecycle, pace, service
from app.jobs.models import Job
from app.workers import service as workers
from app.workers.service import Report

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(autouse=True)
def always_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "KEPT_SECONDS", 0.0)


def worker(name: str, *queues: str) -> None:
    with transaction() as session:
        told = Report(id=name, queues=queues, version="1", started_at=utc_now())
        workers.report(session, told)


def submit(count: int = 1) -> None:
    with transaction() as session:
        account_id = accounts.create_account(session, "ours").id
        for _ in range(count):
            service.submit(
                session,
                job_id=new_id("gen"),
                kind="generation",
                queue="generate",
                account_id=account_id,
            )


def claim(name: str) -> lifecycle.Claim:
    with transaction() as session:
        claimed = claiming.claim(session, "generate", name)
        assert claimed is not None
        return claimed


def end(claimed: lifecycle.Claim, gpu_seconds: float) -> None:
    with transaction() as session:
        lifecycle.finish(session, claimed, "succeeded", gpu_seconds=gpu_seconds)


def eta(position: int, queue: str = "generate") -> float | None:
    with transaction() as session:
        return pace.eta_seconds(session, queue, position)


def test_without_a_worker_nobody_can_tell() -> None:
    submit()
    end(claim("w"), 10.0)
    assert eta(0) is None
    worker("cpu", "ingest")
    assert eta(0) is None


def test_an_idle_worker_takes_the_next_at_once_and_others_by_what_was_measured() -> None:
    submit()
    worker("w", "generate", "train")
    assert eta(0) == 0.0
    assert eta(2) is None, "nothing was measured yet"
    end(claim("w"), 10.0)
    assert [eta(0), eta(1), eta(3)] == [0.0, 10.0, 30.0]


def test_more_workers_are_sooner_done() -> None:
    submit()
    end(claim("w"), 10.0)
    for name in ("a", "b"):
        worker(name, "generate")
    assert eta(4) == 20.0


def test_busy_workers_are_waited_for() -> None:
    submit(2)
    worker("w", "generate", "train")
    end(claim("w"), 10.0)
    held = claim("w")
    assert eta(0) == 5.0, "half a job, where it does not foretell its end"
    assert eta(0, "train") == 0.0, "nothing is known of trainings"
    with transaction() as session:
        session.get_one(Job, held.job_id).progress_eta_s = 42.0
    assert [eta(0), eta(1), eta(0, "train")] == [42.0, 52.0, 42.0]


def test_workers_that_rest_or_are_silent_are_not_waited_for() -> None:
    submit()
    end(claim("w"), 10.0)
    worker("w", "generate")
    with transaction() as session:
        workers.give_order(session, "w", "hold")
    assert eta(0) is None
    worker("silent", "generate")
    with transaction() as session:
        silent = session.get_one(workers.Worker, "silent")
        silent.heartbeat_at = utc_now() - timedelta(hours=1)
    assert eta(0) is None


def test_what_was_read_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    worker("w", "generate")
    assert eta(0) == 0.0
    monkeypatch.setattr(pace, "KEPT_SECONDS", 3600.0)
    with transaction() as session:
        workers.leave(session, "w")
    assert eta(0) == 0.0


def test_a_waiting_job_says_when_it_starts(client) -> None:
    worker("w", "generate")
    first = client.post("/v1/generations", json={"prompt": "a fox"}).json()
    assert first["queue"] == {"position": 0, "eta_s": 0.0}
    end(claim("w"), 10.0)
    ahead, behind = (
        client.post("/v1/generations", json={"prompt": "a fox"}).json()["queue"] for _ in range(2)
    )
    assert ahead == {"position": 0, "eta_s": 0.0}
    assert behind == {"position": 1, "eta_s": 10.0}
    tried = client.post("/v1/generations?dry_run=true", json={"prompt": "a fox"}).json()
    assert tried["queue"] == {"position": 2, "eta_s": 20.0}
