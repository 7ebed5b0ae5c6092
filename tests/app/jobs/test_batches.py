"""Jobs that may run in one batch are claimed together, and no others."""

import pytest
from sqlalchemy import update

from app.accounts import service as accounts
from app.database import new_id, transaction
from app.jobs import claiming, lines, service
from app.jobs.models import Job

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def account_id(clean: object) -> str:  # noqa: ARG001 (order)
    with transaction() as session:
        return accounts.create_account(session, "customer").id


def submit(
    account_id: str, key: str | None, size: int = 1, *, priority: int = 0, **values: object
) -> str:
    job_id = new_id("gen")
    with transaction() as session:
        service.submit(
            session,
            job_id=job_id,
            kind="generation",
            queue="generate",
            account_id=account_id,
            batch_key=key,
            batch_size=size,
            priority=priority,
        )
        if values:
            session.execute(update(Job).where(Job.id == job_id).values(**values))
    return job_id


def claim_batch(places: int = 8) -> list[str]:
    with transaction() as session:
        first = claiming.claim(session, "generate", "w1")
        assert first is not None
        mates = claiming.claim_mates(session, first, places)
    return [claim.job_id for claim in (first, *mates)]


def test_jobs_of_one_key_are_claimed_together_in_order(account_id: str) -> None:
    a, other, b, c = (submit(account_id, key) for key in ("x", "y", "x", "x"))
    assert claim_batch() == [a, b, c]
    assert claim_batch() == [other]


def test_a_batch_has_so_many_places_and_no_more(account_id: str) -> None:
    a, b, large, c = (submit(account_id, "x", size) for size in (2, 1, 4, 1))
    # The large one does not fit; one behind it does.
    assert claim_batch(places=4) == [a, b, c]
    assert claim_batch(places=4) == [large]


def test_a_job_without_a_key_runs_alone(account_id: str) -> None:
    a, b = submit(account_id, None), submit(account_id, None)
    assert claim_batch() == [a]
    assert claim_batch() == [b]


def test_a_job_that_failed_before_runs_alone(account_id: str) -> None:
    """Whatever lost its worker may do so again: it takes no other job along."""
    a, failed, b = (
        submit(account_id, "x"),
        submit(account_id, "x", failures=1),
        submit(account_id, "x"),
    )
    assert claim_batch() == [a, b]
    late = submit(account_id, "x")
    assert claim_batch() == [failed]
    assert claim_batch() == [late]


def test_a_batch_stays_under_the_accounts_limit_and_shares_fairly(
    account_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = lines.get_settings().model_copy(update={"max_running_per_account": 2})
    monkeypatch.setattr(lines, "get_settings", lambda: settings)
    with transaction() as session:
        other = accounts.create_account(session, "other").id
    first = [submit(account_id, "x") for _ in range(4)]
    late = submit(other, "x")
    assert claim_batch() == [first[0], late, first[1]]


def test_the_jobs_that_come_next_are_seen_without_being_taken(account_id: str) -> None:
    a, b = submit(account_id, "x"), submit(account_id, None)
    urgent = submit(account_id, "x", priority=3)
    with transaction() as session:
        assert claiming.waiting_jobs(session, "generate", 2) == [urgent, a]
        assert claiming.waiting_jobs(session, "generate", 9) == [urgent, a, b]
    assert claim_batch() == [urgent, a]
