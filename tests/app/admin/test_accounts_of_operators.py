"""What operators do with accounts, and that nobody else does it."""

from typing import Any

import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from app.accounts import keys
from app.accounts.models import Account, ApiKey
from app.audit.models import AuditEntry
from app.database import transaction, utc_now
from app.jobs import claiming
from app.workers import service as workers
from tests.app.conftest import MakeDataset
from tests.pictures import picture

GENERATION = {"prompt": "a red apple", "base_model": "emoji-64"}


def admin_operations(client: TestClient) -> list[tuple[str, str]]:
    described = client.app.openapi()["paths"]  # type: ignore[attr-defined]
    return [
        (method.upper(), path)
        for path, methods in described.items()
        if path.startswith("/v1/admin/")
        for method in methods
    ]


def test_every_admin_route_is_closed_to_customers(client: TestClient, operator: TestClient) -> None:
    found = admin_operations(operator)
    assert len(found) >= 8
    with transaction() as session:
        # Even one who somehow got the scope: the account's role is what counts.
        account = session.scalars(select(Account).where(Account.name == "customer")).one()
        _, secret = keys.create_key(session, account.id, "odd")
        session.execute(
            update(ApiKey).where(ApiKey.name == "odd").values(scopes=["admin", "datasets"])
        )
    for headers in ({}, {"Authorization": f"Bearer {secret}"}):
        for method, path in found:
            filled = path.replace("{", "acct_0").replace("}", "")
            answer = client.request(method, filled, headers=headers, json={})
            assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing"), path


def test_an_operator_makes_an_account_with_a_key_and_limits(operator: TestClient) -> None:
    body = {"name": "studio", "limits": {"datasets": 1, "queued_jobs": None}}
    made = operator.post("/v1/admin/accounts", json=body).json()
    assert made["limits"] == body["limits"]
    assert made["quotas"]["datasets"] == {"used": 0, "limit": 1}
    path = f"/v1/admin/accounts/{made['id']}"
    key = operator.post(f"{path}/api-keys", json={"name": "first"}).json()
    own = {"Authorization": f"Bearer {key['secret']}"}
    dataset = {"name": "a", "task": "style", "trigger_word": "a"}
    assert operator.post("/v1/datasets", json=dataset, headers=own).status_code == 201
    assert operator.post("/v1/datasets", json=dataset, headers=own).status_code == 403
    operator.patch(path, json={"limits": {}})
    assert operator.post("/v1/datasets", json=dataset, headers=own).status_code == 201
    assert operator.delete(f"{path}/api-keys/{key['id']}").status_code == 204
    assert operator.post("/v1/datasets", json=dataset, headers=own).status_code == 401


@pytest.mark.parametrize(
    "limits", [{"dataset": 1}, {"datasets": -1}, {"datasets": "many"}, {"loras": 1e300}]
)
def test_limits_that_cannot_be_are_refused(operator: TestClient, limits: dict[str, Any]) -> None:
    answer = operator.post("/v1/admin/accounts", json={"name": "x", "limits": limits})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("/limits")


def test_an_accounts_own_rate_limit_holds(client: TestClient, operator: TestClient) -> None:
    body = {"name": "hasty", "limits": {"requests_per_minute": 2}}
    account = operator.post("/v1/admin/accounts", json=body).json()["id"]
    key = operator.post(f"/v1/admin/accounts/{account}/api-keys", json={"name": "k"}).json()
    own = {"Authorization": f"Bearer {key['secret']}"}
    answers = [client.get("/v1/account", headers=own) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"requests";q=2;w=60'
    assert client.get("/v1/account").status_code == 200


def test_an_account_may_have_larger_or_smaller_datasets_than_others(
    client: TestClient, operator: TestClient, customer_id: str, make_dataset: MakeDataset
) -> None:
    operator.patch(f"/v1/admin/accounts/{customer_id}", json={"limits": {"images_per_dataset": 2}})
    dataset = make_dataset(pictures=2)
    files = [("files", ("more.png", picture(7), "image/png"))]
    answer = client.post(f"/v1/datasets/{dataset}/images", files=files)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "3 images" in answer.json()["detail"]
    assert answer.json()["detail"].endswith("is 2")
    limits = {"images_per_dataset": None}
    operator.patch(f"/v1/admin/accounts/{customer_id}", json={"limits": limits})
    assert client.post(f"/v1/datasets/{dataset}/images", files=files).status_code == 201


def test_a_suspended_accounts_keys_are_refused_and_its_jobs_stay(
    client: TestClient, operator: TestClient, customer_id: str
) -> None:
    job = client.post("/v1/generations", json=GENERATION).json()["id"]
    path = f"/v1/admin/accounts/{customer_id}"
    suspended = operator.post(f"{path}/suspend", json={"reason": "the bill is unpaid"}).json()
    assert suspended["suspended_reason"] == "the bill is unpaid"
    assert suspended["queued"] == 1
    refused = client.get(f"/v1/generations/{job}")
    assert (refused.status_code, refused.json()["code"]) == (403, "account_suspended")
    assert "the bill is unpaid" in refused.json()["detail"]
    with transaction() as session:
        assert claiming.claim(session, "generate", "worker") is None
    assert operator.post(f"{path}/resume").json()["suspended_at"] is None
    assert client.get(f"/v1/generations/{job}").json()["status"] == "queued"
    with transaction() as session:
        claimed = claiming.claim(session, "generate", "worker")
    assert claimed is not None
    assert claimed.job_id == job


def test_an_operator_lists_accounts_by_page(
    client: TestClient, operator: TestClient, customer_id: str
) -> None:
    client.post("/v1/generations", json=GENERATION)
    first = operator.get("/v1/admin/accounts", params={"limit": 1}).json()
    rest = operator.get("/v1/admin/accounts", params={"after": first["next"]}).json()
    found = {row["id"]: row for row in first["data"] + rest["data"]}
    assert {row["name"] for row in found.values()} == {"customer", "operator"}
    assert (found[customer_id]["queued"], found[customer_id]["running"]) == (1, 0)
    assert operator.get("/v1/admin/accounts/acct_none").status_code == 404


def test_every_change_by_an_operator_is_written_down(
    client: TestClient, operator: TestClient, customer_id: str
) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "POST /v1/admin/accounts": {"name": "new"},
        "PATCH /v1/admin/accounts/{account_id}": {"name": "renamed", "limits": {"datasets": 3}},
        "POST /v1/admin/accounts/{account_id}/suspend": {"reason": "test"},
        "POST /v1/admin/accounts/{account_id}/api-keys": {"name": "k"},
    }
    with transaction() as session:
        workers.report(session, workers.Report("gpu-1:7", ("train",), "0.1.0", utc_now()))
    key_id = operator.post(
        f"/v1/admin/accounts/{customer_id}/api-keys", json={"name": "doomed"}
    ).json()["id"]
    ids = {"{account_id}": customer_id, "{key_id}": key_id, "{worker_id}": "gpu-1:7"}

    def entries() -> int:
        with transaction() as session:
            return session.scalar(select(func.count()).select_from(AuditEntry)) or 0

    changing = [found for found in admin_operations(operator) if found[0] != "GET"]
    # Jobs are made while the account may make them; what is suspended is resumed after it.
    changing.sort(key=lambda found: (found[1].endswith("/resume"), "/jobs/" not in found[1]))
    for method, path in changing:
        if "/jobs/" in path:
            ids["{job_id}"] = client.post("/v1/generations", json=GENERATION).json()["id"]
            bodies[f"{method} {path}"] = {"ids": [ids["{job_id}"]]}
            if path.endswith("/retry"):
                client.post(f"/v1/generations/{ids['{job_id}']}/cancel")
        filled, before = path, entries()
        for name, value in ids.items():
            filled = filled.replace(name, value)
        body = None if "{job_id}" in path else bodies.get(f"{method} {path}")
        answer = operator.request(method, filled, json=body)
        assert answer.status_code < 300, (path, answer.text)
        assert entries() > before, path
    log = operator.get("/v1/admin/audit", params={"account": customer_id, "limit": 100}).json()
    told = {entry["action"]: entry for entry in log["data"]}
    assert told["account.edit"]["changes"] == {
        "name": ["customer", "renamed"],
        "limits": [{}, {"datasets": 3}],
    }
    assert told["account.edit"]["actor"] == "api"
    some = operator.get("/v1/admin/audit", params={"action": "api_key.", "limit": 1}).json()
    assert some["has_more"]
    assert some["data"][0]["action"].startswith("api_key.")
    one = operator.get("/v1/admin/audit", params={"object_id": key_id}).json()["data"]
    assert [entry["action"] for entry in one] == ["api_key.revoke", "api_key.create"]
    future = {"since": "2090-01-01T00:00:00Z"}
    assert operator.get("/v1/admin/audit", params=future).json()["data"] == []
