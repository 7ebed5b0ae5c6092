"""API keys over HTTP: made, shown once, rotated, expired, revoked."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from app.accounts.models import ApiKey
from app.audit.models import AuditEntry
from app.database import transaction
from app.idempotency.models import IdempotencyRecord


def make(client: TestClient, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/api-keys", json={"name": "laptop", **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def status(client: TestClient, secret: str, path: str = "/v1/account") -> int:
    return client.get(path, headers={"Authorization": f"Bearer {secret}"}).status_code


def test_a_keys_secret_is_shown_once_and_works(client: TestClient) -> None:
    made = make(client)
    assert made["secret"].startswith(made["prefix"])
    assert made["scopes"] == ["datasets", "trainings", "generations"]
    assert status(client, made["secret"]) == 200
    shown = client.get(f"/v1/api-keys/{made['id']}").json()
    assert "secret" not in shown
    assert made["secret"] not in client.get("/v1/api-keys").text
    assert shown["last_used_at"] is not None
    assert [key["name"] for key in client.get("/v1/api-keys").json()["data"]] == ["laptop", "test"]


def test_a_key_does_only_what_its_scopes_say(client: TestClient) -> None:
    made = make(client, scopes=["generations"])
    own = {"Authorization": f"Bearer {made['secret']}"}
    assert status(client, made["secret"], "/v1/generations") == 200
    assert status(client, made["secret"], "/v1/datasets") == 403
    for answer in (
        client.get("/v1/api-keys", headers=own),
        client.post("/v1/api-keys", headers=own, json={"name": "more"}),
        client.delete(f"/v1/api-keys/{made['id']}", headers=own),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")


def test_nobody_gives_himself_the_scope_of_operators(client: TestClient) -> None:
    answer = client.post("/v1/api-keys", json={"name": "x", "scopes": ["admin"]})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert "cannot give ['admin']" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2090-01-01T00:00:00"}, "/expires_at"),
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["everything"]}, "/scopes/0"),
        ({"name": ""}, "/name"),
    ],
)
def test_a_key_that_cannot_be_is_refused(
    client: TestClient, fields: dict[str, Any], pointer: str
) -> None:
    answer = client.post("/v1/api-keys", json={"name": "x", **fields})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_an_expired_key_says_so(client: TestClient) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = make(client, expires_at=soon)
    assert status(client, made["secret"]) == 200
    with transaction() as session:
        session.execute(
            update(ApiKey)
            .where(ApiKey.id == made["id"])
            .values(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        )
    answer = client.get("/v1/account", headers={"Authorization": f"Bearer {made['secret']}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "api_key_expired")
    assert made["secret"] not in answer.text
    assert client.post(f"/v1/api-keys/{made['id']}/rotate").status_code == 409


def test_a_rotated_keys_old_secret_works_as_long_as_it_is_told_to(client: TestClient) -> None:
    made = make(client)
    path = f"/v1/api-keys/{made['id']}/rotate"
    second = client.post(path, json={"overlap_seconds": 3600}).json()
    assert second["secret"] != made["secret"]
    assert second["previous_until"] is not None
    assert status(client, made["secret"]) == status(client, second["secret"]) == 200
    with transaction() as session:
        session.execute(
            update(ApiKey).where(ApiKey.id == made["id"]).values(previous_until=datetime.now(UTC))
        )
    answer = client.get("/v1/account", headers={"Authorization": f"Bearer {made['secret']}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "api_key_expired")
    third = client.post(path).json()
    assert third["previous_until"] is None
    assert status(client, second["secret"]) == 401
    assert status(client, third["secret"]) == 200


def test_a_revoked_key_is_refused_from_the_next_request_on(client: TestClient) -> None:
    made = make(client)
    own = {"Authorization": f"Bearer {made['secret']}"}
    # A key may end itself.
    assert client.delete(f"/v1/api-keys/{made['id']}", headers=own).status_code == 204
    assert status(client, made["secret"]) == 401
    assert client.delete(f"/v1/api-keys/{made['id']}").status_code == 204
    assert client.get(f"/v1/api-keys/{made['id']}").json()["revoked_at"] is not None


def test_a_repeated_request_makes_one_key_and_does_not_keep_its_secret(client: TestClient) -> None:
    headers = {"Idempotency-Key": "once"}
    first = client.post("/v1/api-keys", json={"name": "x"}, headers=headers)
    again = client.post("/v1/api-keys", json={"name": "x"}, headers=headers)
    assert first.json() | {"secret": None} == again.json()
    secret = first.json()["secret"].encode()
    with transaction() as session:
        kept = session.scalars(select(IdempotencyRecord.body)).all()
    assert kept
    assert not any(secret in body for body in kept)


def test_as_many_keys_as_the_quota_allows(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.accounts import quotas
    from app.settings import get_settings

    few = get_settings().model_copy(update={"max_api_keys_per_account": 2})
    monkeypatch.setattr(quotas, "get_settings", lambda: few)
    made = make(client)
    answer = client.post("/v1/api-keys", json={"name": "third"})
    assert (answer.status_code, answer.json()["code"]) == (403, "quota_exceeded")
    assert "LORAWRIGHT_MAX_API_KEYS_PER_ACCOUNT" in answer.json()["detail"]
    # What works no more does not count.
    client.delete(f"/v1/api-keys/{made['id']}")
    make(client)


def test_what_is_done_to_keys_is_written_down_without_secrets(client: TestClient) -> None:
    made = make(client)
    headers = {"X-Request-Id": "mine"}
    second = client.post(f"/v1/api-keys/{made['id']}/rotate", headers=headers).json()
    client.delete(f"/v1/api-keys/{made['id']}")
    with transaction() as session:
        entries = session.scalars(
            select(AuditEntry).where(AuditEntry.object_id == made["id"]).order_by(AuditEntry.id)
        ).all()
    assert [entry.action for entry in entries] == [
        "api_key.create",
        "api_key.rotate",
        "api_key.revoke",
    ]
    acting = client.get("/v1/api-keys").json()["data"][-1]["id"]
    assert {entry.actor_key_id for entry in entries} == {acting}
    assert entries[1].request_id == "mine"
    assert entries[1].changes["prefix"] == [made["prefix"], second["prefix"]]
    told = " ".join(str(entry.changes) for entry in entries)
    assert made["secret"] not in told
    assert second["secret"] not in told
