"""A worker reports that it lives, and does as an operator orders it to."""

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from app.accounts import keys
from app.accounts import service as accounts
from app.broker import get_redis
from app.database import transaction, utc_now
from app.jobs import claiming
from app.workers import service
from app.workers.models import Worker
from worker import drain, tasks
from worker.lease import Lease
from worker.presence import Presence
from worker.runner import worker_id

GENERATION = {"prompt": "a red apple", "base_model": "emoji-64"}


@pytest.fixture(autouse=True)
def free() -> Iterator[None]:
    yield
    drain.obey(None)


@pytest.fixture
def operator(client: TestClient) -> TestClient:
    """An operator's key for the same API."""
    with transaction() as session:
        account = accounts.create_account(session, "operator", role="admin")
        _, secret = keys.create_key(session, account.id, "console", keys.ALL_SCOPES)
    return TestClient(client.app, headers={"Authorization": f"Bearer {secret}"})


def shown(operator: TestClient) -> dict[str, object]:
    [worker] = operator.get("/v1/admin/workers").json()["data"]
    found: dict[str, object] = worker
    return found


def test_a_worker_is_listed_with_what_it_holds(client: TestClient, operator: TestClient) -> None:
    presence = Presence()
    presence.report()
    told = shown(operator)
    assert (told["id"], told["status"], told["jobs"]) == (worker_id(), "idle", [])
    assert told["version"]
    job = client.post("/v1/generations", json=GENERATION).json()["id"]
    with transaction() as session:
        claiming.claim(session, "generate", worker_id())
    told = shown(operator)
    assert (told["status"], told["jobs"]) == ("working", [job])
    with transaction() as session:
        session.execute(update(Worker).values(heartbeat_at=utc_now() - timedelta(minutes=5)))
    assert shown(operator)["status"] == "silent"
    presence.report()
    assert shown(operator)["status"] == "working"
    presence.end()
    assert operator.get("/v1/admin/workers").json()["data"] == []


def test_a_drained_worker_leaves_jobs_to_others_until_it_may_go_on(
    client: TestClient, operator: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    presence = Presence()
    presence.report()
    job = client.post("/v1/generations", json=GENERATION).json()["id"]
    answer = operator.post(f"/v1/admin/workers/{worker_id()}/drain")
    assert (answer.json()["order"], answer.json()["status"]) == ("hold", "resting")
    presence.report()
    tasks.work("generate")
    assert client.get(f"/v1/generations/{job}").json()["status"] == "queued"
    # What runs is brought to its end.
    assert not drain.hands_back()
    operator.post(f"/v1/admin/workers/{worker_id()}/resume")
    monkeypatch.setattr(presence, "_queues", ("generate", "maintenance"))
    get_redis().delete("generate")
    presence.report()
    assert not drain.claims_no_more()
    # It rings for what it has let pass.
    assert get_redis().llen("generate") == 1
    assert get_redis().llen("maintenance") == 0
    missing = operator.post("/v1/admin/workers/nowhere:1/drain")
    assert missing.status_code == 404


def test_a_worker_that_is_to_hand_back_stops_what_runs(
    client: TestClient, operator: TestClient
) -> None:
    presence = Presence()
    presence.report()
    client.post("/v1/generations", json=GENERATION)
    with transaction() as session:
        claim = claiming.claim(session, "generate", worker_id())
    assert claim is not None
    body = {"hand_back": True}
    operator.post(f"/v1/admin/workers/{worker_id()}/drain", json=body)
    with Lease(claim) as lease:
        presence.report()
        ends = time.monotonic() + 20
        while not lease.should_stop() and time.monotonic() < ends:
            time.sleep(0.05)
        assert lease.stop_reason == "draining"


@pytest.mark.usefixtures("clean")
def test_workers_that_have_long_been_silent_are_forgotten() -> None:
    with transaction() as session:
        for name in ("a:1", "b:2"):
            service.report(session, service.Report(name, ("train",), "0.1.0", utc_now()))
        old = utc_now() - timedelta(days=2)
        session.execute(update(Worker).where(Worker.id == "a:1").values(heartbeat_at=old))
    with transaction() as session:
        assert service.forget_silent(session) == 1
        assert [worker.id for worker in service.everyone(session)] == ["b:2"]


def test_the_health_of_what_is_needed_is_told(operator: TestClient) -> None:
    told = operator.get("/v1/admin/health").json()
    assert told == {"status": "ok", "dependencies": {"postgres": "ok", "redis": "ok", "s3": "ok"}}
