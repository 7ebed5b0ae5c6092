"""Operators see every account's jobs, queues and failures, and act on jobs by one or by many."""

from typing import Any

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from app.admin import jobs as admin_jobs
from app.database import transaction
from app.jobs import claiming, lifecycle

GENERATION = {"prompt": "a red apple", "base_model": "emoji-64", "width": 64, "height": 64}


def generation(client: TestClient, **fields: Any) -> str:
    answer = client.post("/v1/generations", json={**GENERATION, **fields})
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def fail(code: str = "storage_corrupt", message: str = "it reads back otherwise") -> str:
    with transaction() as session:
        claim = claiming.claim(session, "generate", "gpu-1:7")
        assert claim is not None
        error = {"code": code, "message": message, "retryable": True}
        lifecycle.finish(session, claim, "failed", gpu_seconds=2.0, error=error)
        return claim.job_id


def test_jobs_are_found_by_every_filter(
    client: TestClient, other_client: TestClient, operator: TestClient, customer_id: str
) -> None:
    first = generation(client)
    fail()
    second, theirs = generation(client), generation(other_client)
    with transaction() as session:
        claiming.claim(session, "generate", "gpu-2:8")

    def found(**filters: Any) -> set[str]:
        answer = operator.get("/v1/admin/jobs", params=filters)
        assert answer.status_code == 200, answer.text
        return {job["id"] for job in answer.json()["data"]}

    running = found(status="running")
    assert len(running) == 1
    assert found() == {first, second, theirs}
    assert found(status="failed") == found(error_code="storage_corrupt") == {first}
    assert found(account=customer_id) == {first, second}
    assert found(worker="gpu-1:7") == {first}
    assert found(worker="gpu-2:8") == running
    assert found(kind="training") == found(queue="train") == set()
    assert found(kind="generation", queue="generate", status="queued") == {second, theirs} - running
    assert found(until="2020-01-01T00:00:00Z") == found(since="2090-01-01T00:00:00Z") == set()
    page = operator.get("/v1/admin/jobs", params={"limit": 2}).json()
    rest = operator.get("/v1/admin/jobs", params={"after": page["next"]}).json()
    assert [job["id"] for job in page["data"] + rest["data"]] == [theirs, second, first]


def test_one_job_is_told_with_its_story(client: TestClient, operator: TestClient) -> None:
    job = generation(client, metadata={"order": "7"})
    fail()
    told = operator.get(f"/v1/admin/jobs/{job}").json()
    assert told["worker"] == "gpu-1:7"
    assert told["error"]["code"] == "storage_corrupt"
    assert [(line["seq"], line["payload"]["status"]) for line in told["events"]] == [
        (1, "queued"),
        (2, "running"),
        (3, "failed"),
    ]
    assert operator.get("/v1/admin/jobs/gen_none").status_code == 404


def test_failures_are_grouped_by_kind_and_code(
    client: TestClient, other_client: TestClient, operator: TestClient
) -> None:
    for who in (client, client, other_client):
        generation(who)
        fail()
    generation(client)
    newest = fail("internal", "a mistake of ours")
    told = operator.get("/v1/admin/failures").json()["data"]
    assert [(row["kind"], row["code"], row["jobs"], row["accounts"]) for row in told] == [
        ("generation", "storage_corrupt", 3, 2),
        ("generation", "internal", 1, 1),
    ]
    assert (told[1]["newest_id"], told[1]["message"]) == (newest, "a mistake of ours")


def test_queues_tell_what_waits_runs_and_ended(client: TestClient, operator: TestClient) -> None:
    for _ in range(3):
        generation(client)
    fail()
    with transaction() as session:
        claiming.claim(session, "generate", "w")
        session.execute(text("UPDATE jobs SET created_at = now() - interval '90 s'"))
    told = {row["queue"]: row for row in operator.get("/v1/admin/queues").json()["data"]}
    assert set(told) == {"ingest", "caption", "train", "generate"}
    queue = told["generate"]
    assert (queue["queued"], queue["running"]) == (1, 1)
    assert (queue["ended_last_hour"], queue["failed_last_hour"]) == (1, 1)
    assert 90 <= queue["oldest_waiting_seconds"] < 200
    assert told["train"]["oldest_waiting_seconds"] is None


def test_jobs_are_canceled_and_retried_one_by_one_and_many_at_once(
    client: TestClient, operator: TestClient
) -> None:
    first, second = generation(client), generation(client, seed=7)
    answer = operator.post("/v1/admin/jobs/cancel", json={"ids": [first, "gen_none", first]})
    told = answer.json()["data"]
    assert [(row["id"], row["error"] and row["error"]["code"]) for row in told] == [
        (first, None),
        ("gen_none", "not_found"),
    ]
    assert operator.post(f"/v1/admin/jobs/{second}/cancel").json()["status"] == "canceled"
    again = operator.post("/v1/admin/jobs/retry", json={"ids": [first, second]}).json()["data"]
    new = client.get(f"/v1/generations/{again[1]['new_job']}").json()
    assert (new["status"], new["request"]["seed"]) == ("queued", 7)
    once_more = operator.post(f"/v1/admin/jobs/{new['id']}/retry")
    assert (once_more.status_code, once_more.json()["code"]) == (409, "conflict")
    refused = operator.post("/v1/admin/jobs/retry", json={"ids": [new["id"], first]})
    codes = [row["error"] and row["error"]["code"] for row in refused.json()["data"]]
    # One that cannot be does not keep the others from being done.
    assert codes == ["conflict", None]
    assert len(client.get("/v1/jobs").json()["data"]) == 5
    many = operator.post("/v1/admin/jobs/cancel", json={"ids": ["x"] * 1001})
    assert many.status_code == 422


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("filters", "index"),
    [
        (admin_jobs.Filters(), "ix_jobs_newest"),
        (admin_jobs.Filters(status="failed"), "ix_jobs_newest"),
        (admin_jobs.Filters(account_id="acct_1"), "ix_jobs_account"),
    ],
)
def test_a_page_of_many_jobs_is_read_from_an_index(filters: admin_jobs.Filters, index: str) -> None:
    with transaction() as session:
        session.execute(
            text("""
            INSERT INTO accounts (id, name)
                SELECT 'acct_' || n, 'x' FROM generate_series(0, 99) AS n
        """)
        )
        session.execute(
            text("""
            INSERT INTO jobs (id, kind, queue, account_id, status, priority, attempt, failures,
                max_attempts, batch_size, passed_over, progress_fraction, gpu_seconds, event_seq,
                metadata, created_at)
            SELECT 'gen_' || n, 'generation', 'generate', 'acct_' || n % 100,
                (ARRAY['succeeded', 'failed', 'queued'])[n % 3 + 1], 0, 1, 0, 3, 1, 0, 0, 0, 3,
                '{}', now() - n * interval '1 second'
            FROM generate_series(1, 20000) AS n
        """)
        )
        session.execute(text("ANALYZE jobs"))
        query = admin_jobs.newest_query(filters).limit(21)
        compiled = query.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
        plan = "\n".join(session.scalars(text(f"EXPLAIN {compiled}")))
    assert index in plan, plan
    assert "Seq Scan" not in plan
