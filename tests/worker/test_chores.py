"""The sweeper's chores: each is done, whatever becomes of the others."""

import pytest
from sqlalchemy import func, select, text, update

from app.accounts import service as accounts
from app.database import new_id, transaction
from app.jobs import claiming
from app.jobs import service as jobs
from app.jobs.models import Job
from app.retention import service as retention
from app.retention.models import DoomedObject
from app.storage import get_store
from worker import chores

pytestmark = pytest.mark.usefixtures("clean")


def test_a_sweep_returns_lost_jobs_and_removes_doomed_objects() -> None:
    with transaction() as session:
        owner = accounts.create_account(session, "customer").id
    job_id = new_id("gen")
    with transaction() as session:
        jobs.submit(session, job_id=job_id, kind="generation", queue="generate", account_id=owner)
    with transaction() as session:
        claiming.claim(session, "generate", "w")
        session.execute(update(Job).values(lease_expires_at=func.now() - text("interval '1 s'")))
    key = f"accounts/{owner}/loras/a.safetensors"
    get_store().put_bytes(key, b"bytes", "application/octet-stream")
    with transaction() as session:
        retention.doom(session, owner, [key])
    chores.sweep()
    with transaction() as session:
        assert session.get_one(Job, job_id).status == "queued"
        assert session.scalars(select(DoomedObject)).all() == []
    assert key not in get_store().list_keys("accounts/")


def test_a_chore_that_fails_keeps_no_other_from_being_done(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    def failing() -> None:
        raise RuntimeError("storage is away")

    def other() -> None:
        done.append("other")

    monkeypatch.setattr(chores, "CHORES", (failing, other))
    chores.sweep()
    assert done == ["other"]
    assert "failing failed" in caplog.text
