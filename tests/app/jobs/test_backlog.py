"""How many seconds of work wait, and what that rests on."""

from datetime import timedelta

import pytest

from app.accounts import service as accounts
from app.accounts import usage
from app.database import new_id, transaction, utc_now
from app.jobs import backlog, claiming, lifecycle, service
from app.jobs.models import Job

pytestmark = pytest.mark.usefixtures("clean")
NONE = {"ingest": 0.0, "caption": 0.0, "train": 0.0, "generate": 0.0}


def account(name: str = "ours") -> str:
    with transaction() as session:
        return accounts.create_account(session, name).id


def submit(account_id: str, count: int, kind: str = "generation", queue: str = "generate") -> None:
    with transaction() as session:
        for _ in range(count):
            service.submit(
                session, job_id=new_id("gen"), kind=kind, queue=queue, account_id=account_id
            )


def run(queue: str, gpu_seconds: float, *, wall_seconds: float = 0.0) -> None:
    """Claim the next job of a queue, and let it have taken so long."""
    with transaction() as session:
        claim = claiming.claim(session, queue, "w")
        assert claim is not None
        lifecycle.finish(session, claim, "succeeded", gpu_seconds=gpu_seconds)
        job = session.get_one(Job, claim.job_id)
        job.started_at = utc_now() - timedelta(seconds=wall_seconds)
        job.ended_at = utc_now()


def seconds() -> dict[str, float]:
    with transaction() as session:
        return backlog.queue_seconds(session)


def test_nothing_waits_at_any_queue() -> None:
    assert seconds() == NONE


def test_before_any_job_has_ended_each_counts_as_a_guess_of_its_queue() -> None:
    submit(account(), 2, "training", "train")
    guess = backlog.FIRST_GUESS_SECONDS["train"]
    assert guess > 0
    assert seconds() == NONE | {"train": 2 * guess}


def test_waiting_jobs_count_as_the_mean_of_those_that_ended() -> None:
    ours = account()
    submit(ours, 5)
    run("generate", 3.0)
    run("generate", 5.0)
    assert seconds() == NONE | {"generate": 3 * 4.0}


def test_what_is_no_gpu_time_counts_by_the_clock() -> None:
    submit(account(), 3, "ingest", "ingest")
    run("ingest", 0.0, wall_seconds=7.0)
    assert seconds()["ingest"] == pytest.approx(2 * 7.0, abs=0.2)


def test_a_running_job_waits_no_more_and_a_pausing_one_still_does() -> None:
    submit(account(), 2)
    run("generate", 4.0)
    with transaction() as session:
        claim = claiming.claim(session, "generate", "w")
    assert claim is not None
    assert seconds()["generate"] == 0
    with transaction() as session:
        error = {"code": "x", "message": "x", "retryable": True}
        lifecycle.retry_later(session, claim, gpu_seconds=0, error=error)
    assert seconds()["generate"] == 4.0


def test_what_a_suspended_account_has_waiting_needs_no_worker() -> None:
    ours, other = account(), account("other")
    submit(ours, 1)
    submit(other, 5)
    with transaction() as session:
        accounts.suspend(session, accounts.get(session, other, to_change=True), "unpaid")
    assert seconds()["generate"] == backlog.FIRST_GUESS_SECONDS["generate"]


def test_more_than_are_counted_count_as_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "COUNTED", 3)
    submit(account(), 2)
    submit(account("other"), 2)
    assert seconds()["generate"] == 3 * backlog.FIRST_GUESS_SECONDS["generate"]


def test_days_tell_where_the_newest_are_all_of_another_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backlog, "NEWEST", 1)
    ours = account()
    submit(ours, 3, "training", "train")
    submit(ours, 2)
    run("train", 1000.0)
    run("train", 2000.0)
    run("generate", 4.0)
    assert seconds() == NONE | {"train": 1500.0, "generate": 4.0}


def test_days_long_past_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = account()
    submit(ours, 1, "training", "train")
    long_ago = usage.today() - backlog.DAYS - timedelta(days=1)
    with monkeypatch.context() as then, transaction() as session:
        then.setattr(usage, "today", lambda: long_ago)
        usage.meter(session, ours, "training", gpu_seconds=9.0, jobs=1, images=0)
    assert seconds()["train"] == backlog.FIRST_GUESS_SECONDS["train"]
