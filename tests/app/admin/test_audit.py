"""Deletions are written down when rows go, and when their bytes do."""

from datetime import timedelta

from sqlalchemy import select, update
from starlette.testclient import TestClient

from app.audit import service as audit
from app.audit.models import AuditEntry
from app.database import transaction, utc_now
from app.retention import service as retention
from app.storage import get_store
from tests.app.conftest import MakeDataset


def actions(account_id: str) -> list[str]:
    with transaction() as session:
        rows = session.scalars(
            select(AuditEntry).where(AuditEntry.account_id == account_id).order_by(AuditEntry.id)
        )
        return [row.action for row in rows]


def test_a_deleted_dataset_and_its_bytes_are_both_written_down(
    client: TestClient, operator: TestClient, customer_id: str, make_dataset: MakeDataset
) -> None:
    dataset = make_dataset(pictures=2)
    before = len(actions(customer_id))
    assert client.delete(f"/v1/datasets/{dataset}").status_code == 204
    assert actions(customer_id)[before:] == ["dataset.delete"]
    with transaction() as session:
        retention.sweep_doomed(session, get_store())
    assert actions(customer_id)[before:] == ["dataset.delete", "objects.remove"]
    log = operator.get("/v1/admin/audit", params={"account": customer_id, "limit": 2}).json()
    removed, deleted = log["data"]
    assert (deleted["actor"], deleted["actor_account_id"]) == ("api", customer_id)
    assert deleted["changes"] == {"name": "ink", "images": 2}
    assert removed["actor"] == "service"
    assert removed["changes"]["objects"] == len(removed["changes"]["keys"]) == 2


def test_what_is_refused_is_not_written_down(
    client: TestClient, customer_id: str, make_dataset: MakeDataset
) -> None:
    dataset = make_dataset(pictures=1)
    client.post("/v1/trainings", json={"dataset": dataset, "name": "x", "base_model": "emoji-64"})
    before = actions(customer_id)
    assert client.delete(f"/v1/datasets/{dataset}").status_code == 409
    assert actions(customer_id) == before


def test_entries_are_kept_for_a_while(client: TestClient, customer_id: str) -> None:
    client.post("/v1/api-keys", json={"name": "x"})
    with transaction() as session:
        old = update(AuditEntry).where(AuditEntry.action == "account.create")
        session.execute(old.values(created_at=utc_now() - timedelta(days=401)))
    with transaction() as session:
        assert audit.prune(session) == 1
    assert "account.create" not in actions(customer_id)
    assert "api_key.create" in actions(customer_id)
