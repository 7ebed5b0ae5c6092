"""Log lines are JSON, say whose they are, and never hold a secret."""

import json
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.logs import configure_logs
from app.settings import get_settings
from tests.pictures import picture
from worker import chores, runner
from worker.webhooks import deliverer

REQUEST = "request-that-is-looked-for"


def test_lines_of_a_request_and_its_job_say_whose_they_are_and_hold_no_secret(
    client: TestClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAWRIGHT_WEBHOOK_ALLOW_HTTP", "true")
    monkeypatch.setenv("LORAWRIGHT_WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")
    get_settings.cache_clear()
    try:
        configure_logs("debug")
        secrets, job_id = _do_something(client)
        deliverer.join()
        text = capsys.readouterr().err
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()
        configure_logs("warning")
    assert "webhook" in text
    for secret in secrets:
        assert secret not in text
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines() if line]
    mine = [line for line in lines if line.get("request_id") == REQUEST]
    assert {"submitted", "request", "succeeded", f"claimed {job_id}"} <= {
        line["event"] for line in mine
    }
    [account] = {line["account_id"] for line in mine if line["event"] == "request"}
    for line in lines:
        assert {"timestamp", "level", "logger", "event"} <= line.keys()
        if line.get("job_id") == job_id and line["event"] != "submitted":
            assert (line["request_id"], line["account_id"]) == (REQUEST, account)
            assert line["attempt"] == 1
    # Nothing of one request stays for the next.
    assert client.get("/livez").status_code == 200


def _do_something(client: TestClient) -> tuple[list[str], str]:
    """A job with all that is secret about it; the secrets, and the job."""
    # Nobody listens there.
    hook = {"url": "http://127.0.0.1:9/hook?token=in-the-address", "events": ["*"]}
    endpoint = client.post("/v1/webhooks", json=hook).json()
    dataset = {"name": "ink", "task": "style", "trigger_word": "inkstyle"}
    dataset_id = client.post("/v1/datasets", json=dataset).json()["id"]
    answer = client.post(
        f"/v1/datasets/{dataset_id}/images",
        files=[("files", ("one.png", picture(1), "image/png"))],
        headers={"X-Request-Id": REQUEST},
    )
    assert answer.status_code == 201, answer.text
    assert runner.run_next("ingest")
    job_id = client.get("/v1/jobs?kind=ingest").json()["data"][0]["id"]
    [image] = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    signature = re.search(r"X-Amz-Signature=(\w+)", image["url"])
    assert signature is not None
    client.get("/v1/account?api_key=in-the-query")
    client.get("/v1/account", headers={"Authorization": "Bearer lw_live_wrong"})
    chores.sweep()
    settings = get_settings()
    assert settings.s3_secret_access_key is not None
    password = re.search(r":([^:@/]+)@", settings.database_url)
    return [
        client.headers["authorization"].removeprefix("Bearer "),
        "lw_live_wrong",
        endpoint["secret"],
        endpoint["secret"].removeprefix("whsec_"),
        "in-the-address",
        "in-the-query",
        signature[1],
        "X-Amz-Signature",
        settings.s3_secret_access_key.get_secret_value(),
        *([password[1]] if password else []),
    ], job_id
