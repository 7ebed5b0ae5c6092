"""Webhooks from a job's change to the receiver, over real sockets."""

import json
import ssl
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from sqlalchemy import func, select, update
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.testclient import TestClient

from app.database import new_id, new_session, transaction, utc_now
from app.idempotency.models import IdempotencyRecord
from app.jobs import claiming, lifecycle
from app.jobs import service as jobs
from app.settings import Settings
from app.webhooks import addresses, sending
from app.webhooks.models import WebhookDelivery, WebhookEndpoint
from app.webhooks.names import EVENTS
from tests.app.webhooks.conftest import Receiver
from worker.webhooks import Deliverer

GENERATION = {"prompt": "a red apple", "base_model": "emoji-64"}

pytestmark = pytest.mark.usefixtures("inside")


def make(client: TestClient, receiver: Receiver, *events: str, **fields: Any) -> dict[str, Any]:
    body = {"url": receiver.url, "events": list(events) or ["*"], **fields}
    answer = client.post("/v1/webhooks", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def send() -> None:
    deliverer = Deliverer()
    deliverer.ring()
    deliverer.join()


def due_now() -> None:
    with transaction() as session:
        pending = update(WebhookDelivery).where(WebhookDelivery.status == "pending")
        session.execute(pending.values(due_at=utc_now() - timedelta(seconds=1)))


def deliveries(client: TestClient, endpoint: str) -> list[dict[str, Any]]:
    path = f"/v1/webhooks/{endpoint}/deliveries"
    listed = client.get(path).json()["data"]
    return [client.get(f"{path}/{row['id']}").json() for row in reversed(listed)]


def test_a_jobs_life_is_told_in_order_and_verifies(client: TestClient, receiver: Receiver) -> None:
    made = make(client, receiver, "generation.*")
    first = client.post("/v1/generations", json={**GENERATION, "metadata": {"order": "7"}}).json()
    with transaction() as session:
        claim = claiming.claim(session, "generate", "worker")
    assert claim is not None
    with transaction() as session:
        error = {"code": "image_refused", "message": "no", "retryable": False}
        lifecycle.finish(session, claim, "failed", gpu_seconds=1.5, error=error)
    second = client.post("/v1/generations", json=GENERATION).json()
    client.post(f"/v1/generations/{second['id']}/cancel")
    send()
    told = [Webhook(made["secret"]).verify(body, headers) for headers, body in receiver.got]
    told.sort(key=lambda message: (message["data"]["created_at"], message["data"]["sequence"]))
    assert [(one["data"]["id"], one["type"]) for one in told] == [
        (first["id"], "generation.queued"),
        (first["id"], "generation.running"),
        (first["id"], "generation.failed"),
        (second["id"], "generation.queued"),
        (second["id"], "generation.canceled"),
    ]
    failed = told[2]["data"]
    assert failed["error"]["code"] == "image_refused"
    assert failed["usage"] == {"gpu_seconds": 1.5}
    assert failed["metadata"] == {"order": "7"}
    assert client.get(failed["href"]).json()["status"] == "failed"
    assert {row["status"] for row in deliveries(client, made["id"])} == {"delivered"}
    with pytest.raises(WebhookVerificationError):
        Webhook(made["secret"]).verify(receiver.got[0][1] + b" ", receiver.got[0][0])


def test_only_what_was_asked_for_is_told(
    client: TestClient, other_client: TestClient, receiver: Receiver
) -> None:
    make(client, receiver, "generation.canceled", "training.*")
    make(other_client, receiver, "*")
    job = client.post("/v1/generations", json=GENERATION).json()["id"]
    client.post(f"/v1/generations/{job}/cancel")
    send()
    assert [json.loads(body)["type"] for _, body in receiver.got] == ["generation.canceled"]
    for wrong in (["generation.done"], ["pictures.*"], [], ["webhook.test"]):
        answer = client.post("/v1/webhooks", json={"url": receiver.url, "events": wrong})
        assert answer.status_code == 422
    assert "lora_tool.succeeded" in EVENTS


def test_an_account_without_webhooks_writes_no_rows(client: TestClient) -> None:
    job = client.post("/v1/generations", json=GENERATION).json()["id"]
    client.post(f"/v1/generations/{job}/cancel")
    with transaction() as session:
        assert session.scalar(select(func.count()).select_from(WebhookDelivery)) == 0
        assert session.scalar(select(func.count()).select_from(WebhookEndpoint)) == 0


def test_what_is_rolled_back_is_never_told(client: TestClient, receiver: Receiver) -> None:
    make(client, receiver)
    account = client.get("/v1/account").json()["id"]
    with new_session() as session:
        jobs.submit(
            session, job_id=new_id("gen"), kind="generation", queue="generate", account_id=account
        )
        assert session.scalar(select(func.count()).select_from(WebhookDelivery)) == 1
        session.rollback()
    send()
    assert receiver.got == []


def test_a_job_can_have_a_webhook_of_its_own(client: TestClient, receiver: Receiver) -> None:
    job = client.post("/v1/generations", json={**GENERATION, "webhook": receiver.url}).json()["id"]
    # The account's own secret signs; it is had by rotating it, and what waits is signed with it.
    secret = client.post("/v1/webhooks/default/rotate").json()["secret"]
    other = client.post("/v1/generations", json=GENERATION).json()["id"]
    client.post(f"/v1/generations/{job}/cancel")
    send()
    told = [Webhook(secret).verify(body, headers) for headers, body in receiver.got]
    assert {one["data"]["id"] for one in told} == {job}
    assert {one["type"] for one in told} == {"generation.queued", "generation.canceled"}
    assert other not in str(told)
    assert [row["url"] for row in deliveries(client, "default")] == [receiver.url] * 2
    assert client.get("/v1/webhooks/default").json()["url"] is None
    assert client.patch("/v1/webhooks/default", json={"url": receiver.url}).status_code == 409
    assert client.post("/v1/webhooks/default/test").status_code == 409


@pytest.mark.parametrize("dry", ["", "?dry_run=true"])
def test_a_jobs_webhook_is_checked_before_it_is_queued(client: TestClient, dry: str) -> None:
    for path, body in (
        ("generations", GENERATION),
        ("comparisons", {**GENERATION, "axes": [{"name": "seed", "values": [1]}]}),
    ):
        body = {**body, "webhook": "http://10.0.0.1/"}
        answer = client.post(f"/v1/{path}{dry}", json=body)
        assert answer.status_code == 422
        [problem] = answer.json()["errors"]
        assert (problem["pointer"], problem["code"]) == ("/webhook", "webhook_url_refused")
    assert client.get("/v1/jobs").json()["data"] == []


def test_after_a_rotation_both_secrets_sign_for_a_while(
    client: TestClient, receiver: Receiver
) -> None:
    made = make(client, receiver)
    path = f"/v1/webhooks/{made['id']}"
    new = client.post(f"{path}/rotate", json={"overlap_seconds": 60}).json()
    assert new["previous_until"] is not None
    client.post(f"{path}/test")
    send()
    [(headers, body)] = receiver.got
    assert len(headers["webhook-signature"].split()) == 2
    for secret in (made["secret"], new["secret"]):
        assert Webhook(secret).verify(body, headers)["type"] == "webhook.test"
    with transaction() as session:
        session.execute(update(WebhookEndpoint).values(previous_until=utc_now()))
    client.post(f"{path}/test")
    send()
    headers, body = receiver.got[1]
    Webhook(new["secret"]).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(made["secret"]).verify(body, headers)
    assert new["secret"] not in client.get("/v1/webhooks").text


def test_a_secret_is_not_kept_with_the_answer(client: TestClient, receiver: Receiver) -> None:
    body = {"url": receiver.url, "events": ["*"]}
    headers = {"Idempotency-Key": "once"}
    first = client.post("/v1/webhooks", json=body, headers=headers).json()
    assert client.post("/v1/webhooks", json=body, headers=headers).json() == {
        **first,
        "secret": None,
    }
    with transaction() as session:
        kept = session.scalars(select(IdempotencyRecord.body)).all()
    assert not any(first["secret"].encode() in one for one in kept)


def test_failures_are_tried_again_with_growing_pauses_under_one_id(
    client: TestClient, receiver: Receiver
) -> None:
    made = make(client, receiver)
    receiver.statuses = [500, 302, 503]
    client.post(f"/v1/webhooks/{made['id']}/test")
    pauses = []
    for _ in range(3):
        send()
        [row] = deliveries(client, made["id"])
        assert row["status"] == "pending"
        with transaction() as session:
            due = session.scalars(select(WebhookDelivery.due_at)).one()
        assert due is not None
        pauses.append((due - utc_now()).total_seconds())
        due_now()
    for pause, wanted in zip(pauses, sending.PAUSES, strict=False):
        assert wanted * 0.5 < pause < wanted * 1.2 + 1
    send()
    [row] = deliveries(client, made["id"])
    assert row["status"] == "delivered"
    assert [attempt["status"] for attempt in row["attempts"]] == [500, 302, 503, 204]
    assert row["attempts"][0]["answer"] == "it was ? so"
    assert "redirect" in row["attempts"][1]["error"]
    # A redirect is not followed: each attempt was one request, with one id and one body.
    assert len(receiver.got) == 4
    assert {headers["webhook-id"] for headers, _ in receiver.got} == {row["id"]}
    assert len({body for _, body in receiver.got}) == 1


def test_what_nothing_reaches_for_three_days_is_given_up(
    client: TestClient, receiver: Receiver
) -> None:
    assert 3 * 24 * 3600 < sum(sending.PAUSES) < 3.5 * 24 * 3600
    made = make(client, receiver)
    client.post(f"/v1/webhooks/{made['id']}/test")
    receiver.statuses = [500]
    with transaction() as session:
        session.execute(
            update(WebhookDelivery).values(
                attempt=len(sending.PAUSES), created_at=utc_now() - timedelta(days=3)
            )
        )
    send()
    [row] = deliveries(client, made["id"])
    assert (row["status"], row["due_at"]) == ("failed", None)
    shown = client.get(f"/v1/webhooks/{made['id']}").json()
    assert shown["disabled_reason"] == "nothing has reached it for 3 days"
    resend = f"/v1/webhooks/{made['id']}/deliveries/{row['id']}/resend"
    assert client.post(resend).status_code == 409
    client.patch(f"/v1/webhooks/{made['id']}", json={"disabled": False})
    assert client.post(resend).json()["status"] == "pending"
    send()
    [again] = deliveries(client, made["id"])
    assert again["status"] == "delivered"
    assert receiver.got[0][0]["webhook-id"] == receiver.got[1][0]["webhook-id"]


def test_an_endpoint_that_is_gone_is_disabled(client: TestClient, receiver: Receiver) -> None:
    made = make(client, receiver)
    receiver.statuses = [410]
    client.post(f"/v1/webhooks/{made['id']}/test")
    send()
    assert "410" in client.get(f"/v1/webhooks/{made['id']}").json()["disabled_reason"]
    client.post("/v1/generations", json=GENERATION)
    send()
    assert len(receiver.got) == 1


def test_a_slow_receiver_holds_up_no_other_and_is_given_up_in_time(
    client: TestClient, receiver: Receiver, settings_with: Callable[..., Settings]
) -> None:
    settings_with(
        webhook_allowed_networks=("127.0.0.0/8",),
        webhook_allow_http=True,
        webhook_timeout_seconds=1.5,
    )
    slow = make(client, receiver)
    receiver.held.set()
    for _ in range(sending.MOST_AN_ENDPOINT + 3):
        client.post(f"/v1/webhooks/{slow['id']}/test")
    with Receiver() as quick:
        serving = threading.Thread(target=quick.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        made = make(client, quick)
        client.post(f"/v1/webhooks/{made['id']}/test")
        send()
        quick.shutdown()
        serving.join()
    [fast] = deliveries(client, made["id"])
    hung = deliveries(client, slow["id"])
    assert fast["status"] == "delivered"
    errors = [row["attempts"][0]["error"] for row in hung]
    assert errors == ["no whole answer within 1.5 s"] * len(hung)
    # It was sent while the others hung.
    assert fast["attempts"][0]["at"] < min(row["attempts"][0]["at"] for row in hung)


def test_a_delivery_whose_sender_was_lost_is_sent_again(
    client: TestClient, receiver: Receiver
) -> None:
    made = make(client, receiver)
    client.post(f"/v1/webhooks/{made['id']}/test")
    with transaction() as session:
        [lost] = sending.claim_due(session, 10, ())
    with transaction() as session:
        assert sending.claim_due(session, 10, ()) == []
    due_now()
    send()
    # The lost one comes back, and changes nothing.
    with transaction() as session:
        sending.record(session, lost, sending.Outcome(500, 1))
    [row] = deliveries(client, made["id"])
    assert (row["status"], row["attempts_made"], len(row["attempts"])) == ("delivered", 2, 1)


def test_a_name_is_resolved_once_for_each_delivery(
    client: TestClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answers = [["127.0.0.1"], ["127.0.0.1"], ["10.0.0.1"]]

    def resolve(host: str, _port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    monkeypatch.setattr(addresses, "_resolve", resolve)
    url = f"http://receiver.example:{receiver.server_port}/hook"
    made = make(client, receiver, url=url)
    client.post(f"/v1/webhooks/{made['id']}/test")
    send()
    # Looked up when it was made and when it was sent: connected to what was checked.
    assert asked == ["receiver.example"] * 2
    [(headers, _)] = receiver.got
    assert headers["host"] == f"receiver.example:{receiver.server_port}"
    # The name now leads inside: it is refused, and tried again later.
    client.post(f"/v1/webhooks/{made['id']}/test")
    send()
    row = deliveries(client, made["id"])[1]
    assert row["status"] == "pending"
    assert "10.0.0.1, a private address" in row["attempts"][0]["error"]
    assert len(receiver.got) == 1


def test_certificates_are_checked_against_the_name_that_was_meant(
    client: TestClient,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    settings_with: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("good.example").configure_cert(context)
    receiver.socket = context.wrap_socket(receiver.socket, server_side=True)
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    settings_with(webhook_allowed_networks=("127.0.0.0/8",), webhook_ca_file=file)
    monkeypatch.setattr(addresses, "_resolve", lambda _host, _port: ["127.0.0.1"])
    statuses = {}
    for host in ("good.example", "bad.example"):
        made = make(client, receiver, url=f"https://{host}:{receiver.server_port}/")
        client.post(f"/v1/webhooks/{made['id']}/test")
        send()
        [row] = deliveries(client, made["id"])
        statuses[host] = row["status"]
    assert statuses == {"good.example": "delivered", "bad.example": "pending"}
    assert "certificate" in row["attempts"][0]["error"].lower()


def test_endpoints_are_refused_and_limited_with_their_reason(
    client: TestClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.accounts import quotas
    from app.settings import get_settings

    answer = client.post("/v1/webhooks", json={"url": "https://10.0.0.1/", "events": ["*"]})
    [problem] = answer.json()["errors"]
    assert (answer.status_code, problem["code"]) == (422, "webhook_url_refused")
    assert "a private address" in problem["detail"]
    few = get_settings().model_copy(update={"max_webhooks_per_account": 1})
    monkeypatch.setattr(quotas, "get_settings", lambda: few)
    made = make(client, receiver)
    answer = client.post("/v1/webhooks", json={"url": receiver.url, "events": ["*"]})
    assert (answer.status_code, answer.json()["code"]) == (403, "quota_exceeded")
    moved = client.patch(f"/v1/webhooks/{made['id']}", json={"url": "https://127.0.0.2:0/"})
    assert moved.status_code == 422
    assert client.delete(f"/v1/webhooks/{made['id']}").status_code == 204
    assert client.get(f"/v1/webhooks/{made['id']}").status_code == 404


def test_old_deliveries_are_forgotten(client: TestClient, receiver: Receiver) -> None:
    made = make(client, receiver)
    client.post(f"/v1/webhooks/{made['id']}/test")
    with transaction() as session:
        session.execute(update(WebhookDelivery).values(created_at=utc_now() - timedelta(days=31)))
    client.post(f"/v1/webhooks/{made['id']}/test")
    with transaction() as session:
        assert sending.prune(session) == 1
    assert len(deliveries(client, made["id"])) == 1
