"""Who owns a job, and what becomes of it when its worker is lost."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, func, select, text, update

from app.accounts import service as accounts
from app.database import get_engine, new_id, transaction
from app.errors import LeaseLost
from app.jobs import claiming, events, lifecycle, service
from app.jobs.lifecycle import Claim
from app.jobs.models import Job

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def account_id(clean: object) -> str:  # noqa: ARG001 (order)
    with transaction() as session:
        account = accounts.create_account(session, "customer")
    return account.id


def submit(account_id: str, *, priority: int = 0, **values: object) -> str:
    job_id = new_id("gen")
    with transaction() as session:
        service.submit(
            session,
            job_id=job_id,
            kind="generation",
            queue="generate",
            account_id=account_id,
            priority=priority,
        )
        if values:
            session.execute(update(Job).where(Job.id == job_id).values(**values))
    return job_id


def claim(worker: str = "w1") -> Claim | None:
    with transaction() as session:
        return claiming.claim(session, "generate", worker)


def read(job_id: str) -> Job:
    with transaction() as session:
        return session.get_one(Job, job_id)


def expire_lease(job_id: str) -> None:
    with transaction() as session:
        session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(lease_expires_at=func.now() - text("interval '1 s'"))
        )


def sweep() -> list[str]:
    with transaction() as session:
        return lifecycle.sweep_expired_leases(session)


def story(job_id: str) -> list[tuple[int, str]]:
    with transaction() as session:
        return [
            (event.seq, event.payload.get("status", event.type))
            for event in events.read_after(session, job_id, 0)
        ]


def test_a_claim_takes_the_oldest_of_the_highest_priority(account_id: str) -> None:
    old, _, urgent = submit(account_id), submit(account_id), submit(account_id, priority=5)
    first, second = claim(), claim()
    assert first is not None
    assert second is not None
    assert [first.job_id, second.job_id] == [urgent, old]


def test_an_empty_queue_gives_no_claim() -> None:
    assert claim() is None


def test_twenty_workers_at_once_never_claim_the_same_job(account_id: str) -> None:
    jobs = {submit(account_id) for _ in range(8)}
    with ThreadPoolExecutor(20) as pool:
        claims = list(pool.map(claim, [f"w{n}" for n in range(20)]))
    taken = [each.job_id for each in claims if each is not None]
    assert len(taken) == len(set(taken))
    # A worker that found its row locked may have gone home; the next doorbell brings the rest.
    while (more := claim()) is not None:
        taken.append(more.job_id)
    assert sorted(taken) == sorted(jobs)


def test_an_account_with_fewer_running_jobs_goes_first(account_id: str) -> None:
    with transaction() as session:
        other = accounts.create_account(session, "other").id
    submit(account_id)
    submit(account_id)
    theirs = submit(other)
    first, second = claim(), claim()
    assert first is not None
    assert second is not None
    assert second.job_id == theirs


def test_a_stale_worker_cannot_finish_a_reclaimed_job(account_id: str) -> None:
    job_id = submit(account_id)
    stale = claim("slow")
    assert stale is not None
    expire_lease(job_id)
    assert sweep() == [job_id]
    with transaction() as session:
        session.execute(update(Job).values(not_before=None))
    fresh = claim("fast")
    assert fresh is not None
    assert fresh.attempt == stale.attempt + 1
    for write in (
        lambda s: lifecycle.renew(s, stale),
        lambda s: lifecycle.hold(s, stale),
        lambda s: lifecycle.report_progress(s, stale, fraction=0.5),
        lambda s: lifecycle.finish(s, stale, "succeeded", gpu_seconds=1),
        lambda s: lifecycle.release(s, stale, gpu_seconds=1, reason="worker_stopping"),
        lambda s: lifecycle.retry_later(
            s, stale, gpu_seconds=1, error={"code": "x", "message": "x", "retryable": True}
        ),
    ):
        with pytest.raises(LeaseLost), transaction() as session:
            write(session)
    job = read(job_id)
    assert (job.status, job.worker_id, job.gpu_seconds) == ("running", "fast", 0)


def test_a_job_whose_workers_are_always_lost_fails_with_worker_lost(account_id: str) -> None:
    job_id = submit(account_id)
    for _ in range(3):
        with transaction() as session:
            session.execute(update(Job).values(not_before=None))
        assert claim() is not None
        expire_lease(job_id)
        sweep()
    job = read(job_id)
    assert (job.status, job.error_code, job.failures) == ("failed", "worker_lost", 3)
    assert claim() is None


def test_pauses_grow_with_each_lost_attempt(account_id: str) -> None:
    job_id = submit(account_id)
    pauses = []
    for _ in range(2):
        with transaction() as session:
            session.execute(update(Job).values(not_before=None))
        assert claim() is not None
        expire_lease(job_id)
        sweep()
        with transaction() as session:
            pauses.append(
                session.scalars(select(func.extract("epoch", Job.not_before - func.now()))).one()
            )
    assert float(pauses[1]) > 1.5 * float(pauses[0]) > 0
    assert claim() is None, "a job that rests is not claimed"


def test_no_pause_is_longer_than_the_longest(account_id: str) -> None:
    job_id = submit(account_id, failures=1000, max_attempts=2000)
    assert claim() is not None
    expire_lease(job_id)
    sweep()
    with transaction() as session:
        pause = session.scalars(select(func.extract("epoch", Job.not_before - func.now()))).one()
    assert 590 < float(pause) <= 600


def test_a_released_job_waits_again_and_its_attempt_does_not_count(account_id: str) -> None:
    job_id = submit(account_id)
    held = claim()
    assert held is not None
    with transaction() as session:
        lifecycle.release(session, held, gpu_seconds=2.5, reason="worker_stopping")
    job = read(job_id)
    assert (job.status, job.failures, job.gpu_seconds) == ("queued", 0, 2.5)
    again = claim()
    assert again is not None
    assert again.attempt == 2, "the fence grows all the same"


@pytest.mark.parametrize("put_back", ["release", "retry_later"])
def test_a_job_that_is_put_back_after_its_cancel_is_canceled(
    account_id: str, put_back: str
) -> None:
    job_id = submit(account_id)
    held = claim()
    assert held is not None
    with transaction() as session:
        service.request_cancel(session, account_id, job_id, "generation")
    with transaction() as session:
        if put_back == "release":
            lifecycle.release(session, held, gpu_seconds=1, reason="worker_stopping")
        else:
            error = {"code": "internal", "message": "x", "retryable": True}
            lifecycle.retry_later(session, held, gpu_seconds=1, error=error)
    job = read(job_id)
    assert (job.status, job.error_code, job.gpu_seconds) == ("canceled", None, 1)


def test_two_sweepers_return_a_lost_job_once(account_id: str) -> None:
    job_id = submit(account_id)
    assert claim() is not None
    expire_lease(job_id)
    with ThreadPoolExecutor(2) as pool:
        swept = [*pool.map(lambda _: sweep(), range(2))]
    assert sorted(swept) == [[], [job_id]]
    assert story(job_id) == [(1, "queued"), (2, "running"), (3, "queued")]


def test_a_queued_job_is_canceled_at_once_and_a_running_one_is_asked(account_id: str) -> None:
    running = submit(account_id)
    held = claim()
    assert held is not None
    queued = submit(account_id)
    with transaction() as session:
        assert service.request_cancel(session, account_id, queued, "generation").status == (
            "canceled"
        )
        job = service.request_cancel(session, account_id, running, "generation")
        assert job.status == "running"
    with transaction() as session:
        assert lifecycle.renew(session, held).cancel_requested
    with transaction() as session:
        lifecycle.finish(session, held, "canceled", gpu_seconds=0)
        # Asking once more is no error, and changes nothing.
        assert service.request_cancel(session, account_id, running, "generation").status == (
            "canceled"
        )


def test_a_canceled_job_of_a_lost_worker_ends_as_canceled(account_id: str) -> None:
    job_id = submit(account_id)
    assert claim() is not None
    with transaction() as session:
        service.request_cancel(session, account_id, job_id, "generation")
    expire_lease(job_id)
    sweep()
    assert read(job_id).status == "canceled"


def test_a_queued_job_past_its_deadline_fails(account_id: str) -> None:
    job_id = submit(account_id, deadline_at=func.now() - text("interval '1 s'"))
    with transaction() as session:
        lifecycle.sweep_deadlines(session)
    job = read(job_id)
    assert (job.status, job.error_code) == ("failed", "deadline_exceeded")


def test_events_are_numbered_without_gaps_whoever_writes(account_id: str) -> None:
    job_id = submit(account_id)

    def write(number: int) -> None:
        with transaction() as session:
            events.append(session, job_id, "log", {"level": "info", "message": str(number)})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert [seq for seq, _ in story(job_id)] == list(range(1, 42))


def test_progress_is_kept_within_zero_and_one(account_id: str) -> None:
    job_id = submit(account_id)
    held = claim()
    assert held is not None
    with transaction() as session:
        lifecycle.report_progress(session, held, fraction=1.7, step=3, total_steps=2, stage="train")
    job = read(job_id)
    assert (job.progress_fraction, job.progress_step, job.progress_stage) == (1.0, 3, "train")


def test_a_worker_of_a_lost_history_cannot_write_though_its_attempt_is_given_out_again(
    account_id: str,
) -> None:
    job_id = submit(account_id)
    before = claim("w1")
    assert before is not None
    # As after a restore, or a failover that lost the claim's commit.
    with transaction() as session:
        session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(status="queued", attempt=0, worker_id=None, lease_expires_at=None)
        )
    after = claim("w2")
    assert after is not None
    assert after.attempt == before.attempt == 1
    with pytest.raises(LeaseLost), transaction() as session:
        lifecycle.renew(session, before)
    with pytest.raises(LeaseLost), transaction() as session:
        lifecycle.finish(session, before, "succeeded", gpu_seconds=0)
    with transaction() as session:
        lifecycle.finish(session, after, "succeeded", gpu_seconds=0)
    assert read(job_id).status == "succeeded"


def test_each_step_of_a_jobs_life_changes_its_row_once(account_id: str) -> None:
    submit(account_id)
    changes: list[str] = []

    def seen(_connection, _cursor, statement, *_: object) -> None:
        changes.extend(["jobs"] * statement.count("UPDATE jobs "))

    event.listen(get_engine(), "before_cursor_execute", seen)
    try:
        held = claim()
        assert held is not None
        counts = [len(changes)]
        for act in (
            lambda session: lifecycle.report_progress(session, held, fraction=0.5),
            lambda session: lifecycle.record(session, held, "log", {"level": "info"}),
            lambda session: lifecycle.renew(session, held),
            lambda session: lifecycle.finish(session, held, "succeeded", gpu_seconds=1),
        ):
            with transaction() as session:
                act(session)
            counts.append(len(changes))
    finally:
        event.remove(get_engine(), "before_cursor_execute", seen)
    assert counts == [1, 2, 3, 4, 5]
    assert [seq for seq, _ in story(held.job_id)] == [1, 2, 3, 4, 5]


def test_a_heartbeat_writes_to_no_index() -> None:
    changed = {"lease_expires_at"}
    for index in Job.__table__.indexes:
        assert not changed & {column.name for column in index.columns}, index.name
