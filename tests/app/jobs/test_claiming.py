"""Who is served next: turns between accounts, what workers have at hand, and lines that close."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from app.accounts import service as accounts
from app.database import get_engine, new_id, transaction
from app.jobs import claiming, lifecycle, lines, service
from app.jobs.claiming import Claim, Held
from app.jobs.models import Job, JobLine

pytestmark = pytest.mark.usefixtures("clean")


def account(name: str) -> str:
    with transaction() as session:
        return accounts.create_account(session, name).id


def submit(account_id: str, count: int = 1, **needs: object) -> list[str]:
    ids = [new_id("gen") for _ in range(count)]
    for job_id in ids:
        with transaction() as session:
            service.submit(
                session,
                job_id=job_id,
                kind="generation",
                queue="generate",
                account_id=account_id,
                **needs,
            )
    return ids


def claim(held: Held = claiming.NOTHING) -> Claim | None:
    with transaction() as session:
        return claiming.claim(session, "generate", "w", held)


def run(held: Held = claiming.NOTHING) -> str | None:
    """Claim a job and end it at once, as a lone worker would."""
    taken = claim(held)
    if taken is None:
        return None
    with transaction() as session:
        lifecycle.finish(session, taken, "succeeded", gpu_seconds=1)
    return taken.job_id


def position(job_id: str) -> int | None:
    with transaction() as session:
        return service.position_in_queue(session, session.get_one(Job, job_id))


def open_lines() -> list[str]:
    with transaction() as session:
        return list(session.scalars(select(JobLine.account_id).where(JobLine.waiting)))


def test_a_flood_delays_another_account_by_one_job_at_most() -> None:
    flood = submit(account("flood"), 12)
    other = account("other")
    assert run() == flood[0]
    first = submit(other)
    assert run() == first[0]
    assert run() == flood[1]
    # One that comes again and again does not push the flood aside either.
    second = submit(other)
    assert run() == second[0]
    third = submit(other)
    assert run() == flood[2]
    assert run() == third[0]


def test_three_accounts_take_turns_in_the_order_they_came() -> None:
    a, b, c = (submit(account(name), 2) for name in "abc")
    assert [run() for _ in range(6)] == [a[0], b[0], c[0], a[1], b[1], c[1]]


def test_a_higher_priority_goes_before_everybodys_turn() -> None:
    ours = account("ours")
    plain = submit(ours)
    urgent = submit(ours, priority=1)
    other = submit(account("other"))
    assert [run() for _ in range(3)] == [urgent[0], plain[0], other[0]]


def test_a_worker_prefers_what_it_has_at_hand_within_one_line() -> None:
    ours = account("ours")
    cold = submit(ours, base_model="b")
    warm = submit(ours, base_model="a")
    merged = submit(ours, base_model="a", recipe="r")
    other = submit(account("other"), base_model="b")
    held = Held(frozenset({"a"}), "r")
    assert run(held) == merged[0]
    # The other account's turn comes first, whatever is loaded.
    assert run(held) == other[0]
    assert run(held) == warm[0]
    assert run(held) == cold[0]


def test_affinity_looks_no_further_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = claiming.get_settings().model_copy(update={"affinity_look_ahead": 2})
    monkeypatch.setattr(claiming, "get_settings", lambda: settings)
    ours = account("ours")
    first, second = submit(ours, 2, base_model="b")
    far = submit(ours, base_model="a")
    held = Held(frozenset({"a"}))
    assert [run(held) for _ in range(3)] == [first, far[0], second]


def test_the_oldest_is_passed_over_only_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = claiming.get_settings().model_copy(update={"affinity_look_ahead": 3})
    monkeypatch.setattr(claiming, "get_settings", lambda: settings)
    ours = account("ours")
    cold = submit(ours, base_model="b")
    warm = submit(ours, 9, base_model="a")
    held = Held(frozenset({"a"}))
    assert [run(held) for _ in range(5)] == [*warm[:3], cold[0], warm[3]]


def test_fifty_claims_at_once_keep_an_account_under_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = lines.get_settings().model_copy(update={"max_running_per_account": 3})
    monkeypatch.setattr(lines, "get_settings", lambda: settings)
    ours, other = account("ours"), account("other")
    submit(ours, 10)
    theirs = submit(other, 2)
    with ThreadPoolExecutor(25) as pool:
        claims = list(pool.map(lambda _: claim(), range(50)))
    taken = [each.job_id for each in claims if each is not None]
    assert len(taken) == len(set(taken)) == 5
    assert set(theirs) <= set(taken)


def test_a_line_closes_when_it_is_empty_and_opens_again() -> None:
    ours = account("ours")
    submit(ours)
    assert open_lines() == [ours]
    run()
    assert run() is None
    assert open_lines() == []
    again = submit(ours)
    assert open_lines() == [ours]
    assert run() == again[0]


def test_a_line_is_not_closed_while_somebody_is_about_to_queue() -> None:
    """The submission has not committed: the claim sees no job, and must leave the line open."""
    ours = account("ours")
    submit(ours)
    run()
    with transaction() as submitting:
        job_id = new_id("gen")
        service.submit(
            submitting, job_id=job_id, kind="generation", queue="generate", account_id=ours
        )
        assert run() is None
    assert run() == job_id


def test_every_job_is_claimed_however_submissions_and_claims_meet() -> None:
    owners = [account(f"a{number}") for number in range(4)]
    with ThreadPoolExecutor(16) as pool:
        submitting = [pool.submit(submit, owners[n % 4]) for n in range(60)]
        claiming_now = [pool.submit(run) for _ in range(80)]
        submitted = {each.result()[0] for each in submitting}
        done = {each.result() for each in claiming_now} - {None}
    while (more := run()) is not None:
        done.add(more)
    assert done == submitted


def test_positions_tell_how_many_go_first() -> None:
    ours, other = account("ours"), account("other")
    mine = submit(ours, 3)
    assert [position(job_id) for job_id in mine] == [0, 1, 2]
    theirs = submit(other, 1)
    # Next, after one of each other account; and never more of another than it has.
    assert position(theirs[0]) == 1
    assert [position(job_id) for job_id in mine] == [1, 2, 3]
    assert run() == mine[0]
    assert position(mine[0]) is None


def test_old_empty_lines_are_forgotten() -> None:
    ours = account("ours")
    submit(ours)
    run()
    run()
    with transaction() as session:
        session.execute(text("UPDATE job_lines SET opened_at = now() - interval '2 days'"))
        lines.forget_old_lines(session)
        assert session.scalar(select(JobLine)) is not None, "it was served a moment ago"
        session.execute(text("UPDATE job_lines SET served_at = now() - interval '2 days'"))
        lines.forget_old_lines(session)
        assert session.scalar(select(JobLine)) is None


def test_the_head_of_a_line_is_found_by_an_index() -> None:
    """However many wait: Postgres goes to the place and reads one row, and sorts nothing."""
    owners = [account(f"a{number}") for number in range(20)]
    with get_engine().begin() as connection:
        connection.execute(
            text("""
                INSERT INTO jobs (id, kind, queue, account_id, status, priority, attempt, failures,
                    max_attempts, batch_key, batch_size, passed_over, progress_fraction,
                    gpu_seconds, event_seq, metadata)
                SELECT 'gen_' || n, 'generation', 'generate', (CAST(:owners AS text[]))[1 + n % 20],
                    'queued', 0, 0, 0, 3, 'k', 1, 0, 0, 0, 0, '{}'
                FROM generate_series(1, 4000) AS n
            """),
            {"owners": owners},
        )
        connection.execute(text("ANALYZE jobs"))
    query = """
        EXPLAIN SELECT id FROM jobs WHERE queue = 'generate' AND account_id = :owner
        AND priority = 0 AND status = 'queued' AND (not_before IS NULL OR not_before <= now())
        ORDER BY created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
    """
    with get_engine().connect() as connection:
        plan = "\n".join(connection.scalars(text(query), {"owner": owners[7]}))
    assert "Index Scan using ix_jobs_waiting" in plan, plan
    assert "Sort" not in plan


def test_a_connection_lost_before_a_lock_is_told_as_any_other_and_the_next_claim_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [job_id] = submit(account("a"))
    fairest = lines.fairest

    def lost(session, queue):  # type: ignore[no-untyped-def]
        found = list(fairest(session, queue))
        backend = session.scalar(text("SELECT pg_backend_pid()"))
        with transaction() as other:
            other.execute(text("SELECT pg_terminate_backend(:backend)"), {"backend": backend})
        return found

    with monkeypatch.context() as patched:
        patched.setattr(lines, "fairest", lost)
        with pytest.raises(OperationalError):
            claim()
    taken = claim()
    assert taken is not None
    assert taken.job_id == job_id
