"""What /metrics tells, whom it tells it, and that it names nobody."""

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from starlette.testclient import TestClient

from app.broker import get_redis
from app.cli.embedded import EmbeddedServers
from app.database import get_engine, transaction, utc_now
from app.errors import StorageUnavailable
from app.jobs import backlog, claiming, lifecycle
from app.jobs import service as jobs
from app.jobs.models import Job
from app.metrics import totals
from app.metrics.api import API
from app.metrics.work import WORK, work
from app.settings import get_settings
from app.storage import get_store
from app.webhooks.models import WebhookDelivery
from app.workers import service as workers

TOKEN = "a-token-of-some-length"
GENERATION = {"prompt": "a red apple", "base_model": "emoji-64", "num_images": 2}

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LORAWRIGHT_METRICS_TOKEN", TOKEN)
    get_settings.cache_clear()
    yield
    monkeypatch.undo()
    get_settings.cache_clear()


def scrape(client: TestClient) -> Values:
    """Every sample, by its name and labels, as it is now."""
    work.forget()
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(found: Values, name: str, **labels: str) -> float:
    return found.get((f"lorawright_{name}", tuple(sorted(labels.items()))), 0.0)


def submit(client: TestClient) -> str:
    job_id: str = client.post("/v1/generations", json=GENERATION).json()["id"]
    return job_id


def finish(status: str, error: dict[str, object] | None = None) -> None:
    with transaction() as session:
        claim = claiming.claim(session, "generate", "host:1")
        assert claim is not None
        lifecycle.finish(session, claim, status, gpu_seconds=6.0, error=error)  # type: ignore[arg-type]


def test_requests_are_told_by_their_route_and_never_by_what_was_asked_for(
    client: TestClient,
) -> None:
    before = scrape(client)
    job = submit(client)
    client.get(f"/v1/generations/{job}")
    client.head(f"/v1/generations/{job}")
    client.get("/v1/generations/gen_" + "0" * 32)
    client.get("/nothing/is/here")
    client.request("BREW", "/v1/generations")
    found = scrape(client)

    def more(name: str, **labels: str) -> float:
        return value(found, name, **labels) - value(before, name, **labels)

    one = "/v1/generations/{job_id}"
    assert more("http_requests_total", method="POST", route="/v1/generations", status="2xx") == 1
    assert more("http_requests_total", method="GET", route=one, status="2xx") == 1
    assert more("http_requests_total", method="HEAD", route=one, status="2xx") == 1
    assert more("http_requests_total", method="GET", route=one, status="4xx") == 1
    assert more("http_requests_total", method="GET", route="none", status="4xx") == 1
    assert more("http_request_seconds_count", method="GET", route=one) == 2
    # The request that asks is one.
    assert value(found, "http_requests_in_flight") == 1
    methods = {dict(labels).get("method") for _, labels in found}
    assert "BREW" not in methods
    assert "other" in methods


def test_no_label_says_whose_anything_is(client: TestClient) -> None:
    job = submit(client)
    finish("succeeded")
    with transaction() as session:
        totals.count_ended(session)
        account_id = session.get_one(Job, job).account_id
    work.forget()
    told = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    assert "lorawright_queue_waiting_jobs" in told
    for secret in (job, account_id, "customer", TOKEN, client.headers["authorization"][7:]):
        assert secret not in told


def test_metrics_are_for_the_token_or_for_who_is_near(client: TestClient) -> None:
    wrong = {"Authorization": "Bearer another-token-of-length"}
    right = {"Authorization": f"Bearer {TOKEN}"}
    # A proxy on this machine brings whoever is outside.
    brought = {"X-Forwarded-For": "203.0.113.7"}
    for peer, headers, status in (
        ("127.0.0.1", {}, 200),
        ("::1", {}, 200),
        ("203.0.113.7", {}, 401),
        ("127.0.0.1", brought, 401),
        ("203.0.113.7", wrong, 401),
        ("203.0.113.7", right, 200),
        ("127.0.0.1", right | brought, 200),
    ):
        visitor = TestClient(client.app, client=(peer, 50_000), headers=headers)
        answer = visitor.get("/metrics")
        assert answer.status_code == status, (peer, headers)
        if status == 401:
            assert answer.json()["code"] == "unauthenticated"


def test_queues_tell_what_waits_what_runs_and_for_how_long(client: TestClient) -> None:
    first, second = submit(client), submit(client)
    with transaction() as session:
        hour_ago = utc_now() - timedelta(hours=1)
        session.execute(update(Job).where(Job.id == first).values(created_at=hour_ago))
        workers.report(session, workers.Report("a:1", ("train", "generate"), "0", utc_now()))
        workers.report(session, workers.Report("b:1", ("generate",), "0", utc_now()))
        workers.give_order(session, "b:1", "hold")
    found = scrape(client)
    assert value(found, "queue_waiting_jobs", queue="generate") == 2
    assert value(found, "queue_oldest_seconds", queue="generate") == pytest.approx(3600, abs=60)
    # Nothing has been measured yet.
    guess = 2 * backlog.FIRST_GUESS_SECONDS["generate"]
    assert value(found, "queue_seconds", queue="generate") == pytest.approx(guess)
    assert value(found, "workers", queue="generate", state="ready") == 1
    assert value(found, "workers", queue="generate", state="resting") == 1
    assert value(found, "workers", queue="train", state="ready") == 1
    assert found["lorawright_workers", (("queue", "ingest"), ("state", "ready"))] == 0
    finish("succeeded")
    with transaction() as session:
        claim = claiming.claim(session, "generate", "host:1")
        assert claim is not None
        assert claim.job_id == second
    found = scrape(client)
    assert found["lorawright_queue_waiting_jobs", (("queue", "generate"),)] == 0
    assert value(found, "queue_running_jobs", queue="generate") == 1
    submit(client)
    # Six seconds, as the first took.
    assert value(scrape(client), "queue_seconds", queue="generate") == pytest.approx(6.0)
    # A failure that is tried again later waits from then on.
    with transaction() as session:
        error = {"code": "internal", "message": "", "retryable": True}
        lifecycle.retry_later(session, claim, gpu_seconds=0, error=error)
        session.execute(update(Job).where(Job.status == "queued").values(created_at=hour_ago))
        session.execute(
            update(Job).where(Job.id == second).values(not_before=utc_now() + timedelta(minutes=1))
        )
        session.execute(update(Job).where(Job.id != second).values(not_before=utc_now()))
    assert value(scrape(client), "queue_oldest_seconds", queue="generate") < 60


def test_jobs_that_have_ended_are_counted_once_however_often_it_is_swept(
    client: TestClient,
) -> None:
    now = timedelta(0)
    with transaction() as session:
        totals.count_ended(session, now)
    for _ in range(3):
        submit(client)
    finish("succeeded")
    refused = {"code": "lora_matches_nothing", "message": "", "retryable": False}
    finish("failed", refused)
    for _ in range(3):
        with transaction() as session:
            totals.count_ended(session, now)
    client.post("/v1/generations/" + submit(client) + "/cancel")
    with transaction() as session:
        totals.count_ended(session, now)
    found = scrape(client)
    ended = {labels: told for (name, labels), told in found.items() if "jobs_ended" in name}
    assert ended == {
        (("code", ""), ("kind", "generation"), ("outcome", "succeeded")): 1,
        (("code", ""), ("kind", "generation"), ("outcome", "canceled")): 1,
        (("code", "lora_matches_nothing"), ("kind", "generation"), ("outcome", "failed")): 1,
    }
    assert value(found, "jobs_gpu_seconds_total", kind="generation") == 12.0
    with transaction() as session:
        totals.count_ended(session, timedelta(seconds=20))
    assert value(scrape(client), "jobs_gpu_seconds_total", kind="generation") == 12.0


def test_the_sweeper_is_silent_until_it_has_swept(client: TestClient) -> None:
    assert value(scrape(client), "sweep_age_seconds") == float("inf")
    with transaction() as session:
        totals.note_sweep(session)
    assert value(scrape(client), "sweep_age_seconds") < 60


def test_webhooks_that_do_not_arrive_are_told(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAWRIGHT_WEBHOOK_ALLOWED_NETWORKS", "192.0.2.0/24")
    get_settings.cache_clear()
    body = {"url": "https://192.0.2.1/hook", "events": ["*"]}
    assert client.post("/v1/webhooks", json=body).status_code == 201
    submit(client)
    submit(client)
    with transaction() as session:
        late = utc_now() - timedelta(minutes=10)
        [one, _] = session.query(WebhookDelivery).all()
        one.due_at, one.attempt = late, 4
    found = scrape(client)
    assert value(found, "webhooks_pending") == 2
    assert value(found, "webhooks_failing") == 1
    assert value(found, "webhooks_overdue_seconds") == pytest.approx(600, abs=60)
    assert value(found, "webhook_endpoints_disabled") == 0


def test_many_that_ask_within_seconds_cost_one_reading(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = work._read
    monkeypatch.setattr(work, "_read", lambda: read.append(1) or original())
    scrape(client)
    for _ in range(5):
        client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert read == [1]


def test_what_does_not_answer_is_told_and_the_rest_all_the_same(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = scrape(client)
    assert {
        dict(labels)["dependency"]: told
        for (name, labels), told in found.items()
        if name == "lorawright_dependency_up"
    } == {"postgres": 1, "redis": 1, "s3": 1}

    def away() -> None:
        raise StorageUnavailable("away")

    def hangs() -> None:
        time.sleep(5)

    monkeypatch.setattr("app.metrics.work.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(get_store(), "check", away)
    monkeypatch.setattr(get_redis(), "ping", hangs)
    monkeypatch.setenv("LORAWRIGHT_DATABASE_URL", "postgresql+psycopg://x@127.0.0.1:9/x")
    get_settings.cache_clear()
    found = scrape(client)
    for name in ("postgres", "redis", "s3"):
        assert found["lorawright_dependency_up", (("dependency", name),)] == 0
    assert ("lorawright_queue_waiting_jobs", (("queue", "train"),)) not in found
    assert value(found, "database_connections_max") == get_engine().pool.size()  # type: ignore[attr-defined]


def test_refused_requests_are_counted(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.main import create_app

    monkeypatch.setenv("LORAWRIGHT_REQUESTS_PER_MINUTE", "3")
    get_settings.cache_clear()
    before = value(scrape(client), "http_rate_limited_total")
    with TestClient(create_app(), headers=client.headers) as limited:
        answers = [limited.get("/v1/account").status_code for _ in range(6)]
    assert 429 in answers
    told = value(scrape(client), "http_rate_limited_total") - before
    assert told == answers.count(429)


def test_every_metric_that_is_described_is_told_and_no_other(client: TestClient) -> None:
    submit(client)
    finish("succeeded")
    with transaction() as session:
        totals.count_ended(session, timedelta(0))
    submit(client)
    finish("succeeded")
    with transaction() as session:
        totals.count_ended(session, timedelta(0))
    work.forget()
    text = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    described = {one.name for one in (*API.described, *WORK.described)}
    assert {name for name in told if not name.startswith("process_")} == described


def test_a_reading_does_not_wait_for_a_place_in_the_pool(
    client: TestClient, clean: EmbeddedServers
) -> None:
    # All connections of the pool are taken, as when the API is overloaded.
    assert clean
    engine = get_engine()
    held = [engine.connect() for _ in range(get_settings().database_pool_size)]
    try:
        found = scrape(client)
    finally:
        for connection in held:
            connection.close()
    assert value(found, "database_connections_in_use") == get_settings().database_pool_size
    assert found["lorawright_dependency_up", (("dependency", "postgres"),)] == 1


@pytest.mark.usefixtures("clean")
def test_jobs_of_a_suspended_account_wait_for_nobody(client: TestClient) -> None:
    from app.accounts.models import Account

    job = submit(client)
    with transaction() as session:
        account_id = session.get_one(Job, job).account_id
        session.execute(
            update(Account).where(Account.id == account_id).values(suspended_at=utc_now())
        )
    found = scrape(client)
    assert value(found, "queue_waiting_jobs", queue="generate") == 0
    with transaction() as session:
        assert jobs.get(session, account_id, job).status == "queued"
