"""What a job's heartbeat hears, and what becomes of a handler that does not leave."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.database import transaction
from app.jobs import claiming, lifecycle
from app.jobs.lifecycle import Claim
from app.jobs.models import Job, JobEvent
from app.settings import get_settings
from worker import drain, runner
from worker import lease as lease_module
from worker.handlers.context import JobContext
from worker.lease import Lease

# More than anything here takes; nothing waits for it to pass.
LONG_SECONDS = 20.0


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def job(client: Any) -> str:
    """A queued generation; its path."""
    made = client.post("/v1/generations", json={"prompt": "a fox"}).json()
    return f"/v1/generations/{made['id']}"


def claimed() -> Claim:
    with transaction() as session:
        claim = claiming.claim(session, "generate", "test")
    assert claim is not None
    return claim


def test_a_cancel_between_the_claim_and_the_first_listening_is_heard_at_once(client, job):
    claim = claimed()
    client.post(f"{job}/cancel")
    stopped = threading.Event()
    with Lease(claim, stopped.set):
        # By the heartbeat alone it would be ten seconds.
        assert stopped.wait(5)


def heartbeats(monkeypatch: pytest.MonkeyPatch) -> list[Claim]:
    """Those of every lease, from now on."""
    seen: list[Claim] = []
    renew = lifecycle.renew

    def counted(session: Any, claim: Claim) -> lifecycle.Orders:
        seen.append(claim)
        return renew(session, claim)

    monkeypatch.setattr(lifecycle, "renew", counted)
    return seen


@pytest.mark.usefixtures("job")
def test_a_workers_own_reports_ask_for_no_heartbeat(monkeypatch):
    claim, seen = claimed(), heartbeats(monkeypatch)
    with Lease(claim) as lease:
        for step in range(20):
            with transaction() as session:
                lifecycle.report_progress(
                    session, claim, fraction=step / 20, stage="denoise", step=step, total_steps=20
                )
            threading.Event().wait(0.02)
        assert not lease.should_stop()
    assert len(seen) <= 1, "the one of the begin"


def test_a_deadline_is_heard_when_it_passes(client, monkeypatch):
    client.post("/v1/generations", json={"prompt": "a fox", "deadline": 1.5})
    claim, seen = claimed(), heartbeats(monkeypatch)
    stopped = threading.Event()
    with Lease(claim, stopped.set) as lease:
        # By the heartbeat alone it would be ten seconds.
        assert stopped.wait(5)
        assert lease.stop_reason == "deadline"
    assert len(seen) <= 3, "one at the begin, and when it has passed"


def test_a_canceled_job_ends_though_its_handler_is_held_up(client, job, monkeypatch):
    began, release = threading.Event(), threading.Event()
    after: list[str] = []

    def held_up(contexts: list[JobContext]):
        began.set()
        # As while a base model is loaded: nothing is asked.
        assert release.wait(LONG_SECONDS)
        after.append(client.get(job).json()["status"])
        yield contexts[0], lambda _: after.append("published")

    monkeypatch.setattr(runner, "GROUP_HANDLERS", {"generation": held_up})
    worker = threading.Thread(target=runner.run_next, args=("generate",))
    worker.start()
    assert began.wait(LONG_SECONDS)
    client.post(f"{job}/cancel")
    assert ended(job) == "canceled"
    assert worker.is_alive(), "the handler was not waited for"
    release.set()
    worker.join(LONG_SECONDS)
    assert after == ["canceled"], "what it made later is not published"
    assert client.get(job).json()["status"] == "canceled"
    with transaction() as session:
        told = session.query(JobEvent).filter_by(job_id=claim_id(job), type="status")
        statuses = [event.payload["status"] for event in told.order_by(JobEvent.seq)]
    assert statuses == ["queued", "running", "canceled"]


@pytest.fixture
def draining() -> Iterator[None]:
    """The worker is told to stop, for a block."""
    drain.start_draining()
    yield
    drain._draining.clear()


@pytest.mark.usefixtures("draining")
def test_a_stopping_worker_gives_back_a_job_whose_handler_is_held_up(client, job, monkeypatch):
    began, release = threading.Event(), threading.Event()
    left: list[tuple[int, str]] = []

    def held_up(_contexts: list[JobContext]):
        began.set()
        assert release.wait(LONG_SECONDS)
        yield from ()

    def leave(code: int) -> None:
        left.append((code, client.get(job).json()["status"]))
        release.set()

    monkeypatch.setattr(runner, "GROUP_HANDLERS", {"generation": held_up})
    monkeypatch.setattr(runner.os, "_exit", leave)
    soon = get_settings().model_copy(update={"graceful_stop_seconds": 0.1})
    monkeypatch.setattr(lease_module, "get_settings", lambda: soon)
    monkeypatch.setattr(lease_module, "STOP_MARGIN_SECONDS", 0.0)
    worker = threading.Thread(target=runner.run_next, args=("generate",))
    worker.start()
    assert began.wait(LONG_SECONDS)
    assert release.wait(LONG_SECONDS), "the process leaves without its handler"
    worker.join(LONG_SECONDS)
    assert left == [(os.EX_TEMPFAIL, "queued")], "after the job was given back"
    with transaction() as session:
        assert session.get_one(Job, claim_id(job)).failures == 0


def test_a_training_may_save_its_state_before_it_is_left_behind():
    claim = Claim("trn_1", "training", "train", "acct_1", 1, "test")
    lease = Lease(claim)
    lease._reason = "canceled"
    assert lease._may_take_seconds() == lease_module.CANCEL_TRAINING_SECONDS < 10
    lease._reason = "draining"
    assert lease._may_take_seconds() < 30


def claim_id(path: str) -> str:
    return path.rpartition("/")[2]


def ended(path: str) -> str:
    """The status of a job once it has ended; asked until then."""
    for _ in range(2000):
        with transaction() as session:
            status: str = session.get_one(Job, claim_id(path)).status
        if status not in ("queued", "running"):
            break
        threading.Event().wait(0.01)
    return status
