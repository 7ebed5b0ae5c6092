"""What a LoRA tool freezes when it is submitted, and what it refuses."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from app.accounts.models import Account
from app.database import new_id, transaction
from app.loras.models import Lora, LoraTool


def make_lora(
    name: str = "ink", architecture: str = "emoji-64", account: str = "customer", **fields: Any
) -> str:
    with transaction() as session:
        owner = session.query(Account).filter_by(name=account).one()
        values: dict[str, Any] = {
            "base_model": architecture,
            "source": "tool",
            "rank": 4,
            "alpha": 4.0,
            "object_key": "stored/here",
            "sha256": "ab" * 32,
            "bytes": 1,
            "file_metadata": {},
        }
        lora = Lora(
            id=new_id("lora"),
            account_id=owner.id,
            name=name,
            architecture=architecture,
            **(values | fields),
        )
        session.add(lora)
        return lora.id


def submit(client: TestClient, **request: Any) -> Any:
    return client.post("/v1/lora-tools", json=request)


def test_inputs_are_frozen_with_their_keys_and_hashes(client: TestClient) -> None:
    first, second = make_lora("ink", default_weight=0.6), make_lora("fur")
    loras = [{"lora": "ink"}, {"lora": second, "weight": -1}]
    answer = submit(client, operation="merge", loras=loras, metadata={"order": "7"})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert job["id"].startswith("tool_")
    assert job["object"] == "lora_tool"
    assert job["status"] == "queued"
    assert job["operation"] == "merge"
    assert job["metadata"] == {"order": "7"}
    assert job["request"] == {
        "operation": "merge",
        "name": "ink + fur",
        "description": "",
        "precision": None,
        "rank": None,
        "keep": None,
        "base_model": "emoji-64",
        "architecture": "emoji-64",
    }
    with transaction() as session:
        frozen = session.get_one(LoraTool, job["id"]).request["inputs"]
    assert [(each["lora"], each["weight"]) for each in frozen] == [(first, 0.6), (second, -1)]
    assert {each["object_key"] for each in frozen} == {"stored/here"}
    assert {each["sha256"] for each in frozen} == {"ab" * 32}
    assert "object_key" not in str(job)
    assert client.get("/v1/lora-tools").json()["data"] == [job]
    assert client.get(f"/v1/lora-tools/{job['id']}").json() == job


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no operation": ({}, ""),
    "a foreign operation": ({"operation": "train"}, ""),
    "rank 0": ({"operation": "resize", "lora": "ink", "rank": 0}, "/rank"),
    "rank 513": ({"operation": "resize", "lora": "ink", "rank": 513}, "/rank"),
    "keep 0": ({"operation": "resize", "lora": "ink", "keep": 0}, "/keep"),
    "keep over 1": ({"operation": "resize", "lora": "ink", "keep": 1.01}, "/keep"),
    "no limit": ({"operation": "resize", "lora": "ink"}, "/rank"),
    "nothing to merge": ({"operation": "merge", "loras": []}, "/loras"),
    "a heavy weight": (
        {"operation": "merge", "loras": [{"lora": "ink", "weight": 3}]},
        "/loras/0/weight",
    ),
    "one twice": ({"operation": "merge", "loras": [{"lora": "ink"}, {"lora": "ink"}]}, "/loras/1"),
    "a foreign layout": ({"operation": "convert", "lora": "ink", "layout": "onnx"}, "/layout"),
    "its own layout": ({"operation": "convert", "lora": "ink", "layout": "kohya"}, "/layout"),
    "a foreign base": (
        {"operation": "extract", "base_model": "sd-9", "fine_tuned": "emoji-64", "rank": 4},
        "/base_model",
    ),
    "a foreign fine-tune": (
        {"operation": "extract", "base_model": "emoji-64", "fine_tuned": "sd-9", "rank": 4},
        "/fine_tuned",
    ),
    "a field of another tool": (
        {"operation": "convert", "lora": "ink", "layout": "peft", "rank": 4},
        "/rank",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_named(client: TestClient, case: str) -> None:
    make_lora("ink")
    request, pointer = WRONG[case]
    answer = submit(client, **request)
    assert answer.status_code == 422, answer.text
    assert pointer in {error["pointer"] for error in answer.json()["errors"]}
    assert client.get("/v1/lora-tools").json()["data"] == []


def test_more_loras_than_the_limit_are_refused(client: TestClient) -> None:
    loras = [{"lora": make_lora(f"ink {number}")} for number in range(6)]
    answer = submit(client, operation="merge", loras=loras)
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_loras")


def test_loras_of_two_architectures_are_not_merged(client: TestClient) -> None:
    make_lora("ink")
    make_lora("fur", architecture="sdxl")
    answer = submit(client, operation="merge", loras=[{"lora": "ink"}, {"lora": "fur"}])
    assert (answer.status_code, answer.json()["code"]) == (422, "lora_incompatible")


def test_anothers_lora_and_job_are_404(client: TestClient, other_client: TestClient) -> None:
    lora = make_lora("ink")
    request = {"operation": "resize", "lora": lora, "rank": 2}
    assert other_client.post("/v1/lora-tools", json=request).status_code == 404
    job = submit(client, **request).json()["id"]
    assert other_client.get(f"/v1/lora-tools/{job}").status_code == 404
    assert other_client.post(f"/v1/lora-tools/{job}/cancel").status_code == 404
    assert other_client.get(f"/v1/loras/{lora}/download?format=peft").status_code == 404


def test_a_conversion_under_way_is_not_queued_again(client: TestClient) -> None:
    make_lora("ink")
    request = {"operation": "convert", "lora": "ink", "layout": "peft"}
    first, second = submit(client, **request).json(), submit(client, **request).json()
    assert first["id"] == second["id"]
    canceled = client.post(f"/v1/lora-tools/{first['id']}/cancel").json()
    assert canceled["status"] == "canceled"
    assert submit(client, **request).json()["id"] != first["id"]


def test_a_download_needs_a_key(client: TestClient) -> None:
    lora = make_lora("ink")
    answer = client.get(f"/v1/loras/{lora}/download", headers={"Authorization": "Bearer lw_live_x"})
    assert answer.status_code == 401
