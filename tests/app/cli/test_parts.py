"""Large archives go straight to storage, in parts that are sent again where one is lost."""

import os
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from app.cli import parts, target
from app.cli.errors import CommandError
from app.settings import get_settings
from app.storage import get_store
from tests.pictures import archive, picture
from worker.runner import run_next


@pytest.fixture
def dataset(connected: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    get_store().delete(get_store().list_keys(""))
    monkeypatch.setattr(parts, "PAUSE_SECONDS", 0)
    small = get_settings().model_copy(update={"work_dir": tmp_path / "work"})
    monkeypatch.setattr("worker.workspace.get_settings", lambda: small)
    request = {"name": "ink", "task": "style", "trigger_word": "inkstyle"}
    found: str = connected.post("/v1/datasets", json=request).json()["id"]
    return found


def test_an_archive_arrives_though_parts_are_lost(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(archive({"a.png": picture(1), "filler.bin": os.urandom(17_000_000)}))
    put, calls = httpx.put, []

    def failing_first(url: str, **how: object) -> httpx.Response:
        calls.append(url)
        if len(calls) in (1, 3):
            raise httpx.ReadError("lost")
        return put(url, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(httpx, "put", failing_first)
    said: list[str] = []
    with target.connect(None, None, Path()) as client:
        upload = parts.upload_in_parts(client, dataset, path, said.append)
        assert upload["status"] == "unpacking"
        assert run_next("ingest")
        files = client.get(f"/datasets/{dataset}/uploads/{upload['id']}")["files"]
    assert len(calls) == 5  # three parts, two of them twice
    assert said[0] == "set.zip: part 1 of 3"
    assert {item["filename"]: item["status"] for item in files} == {
        "set.zip/a.png": "accepted",
        "set.zip/filler.bin": "rejected",
    }


def test_storage_that_never_answers_is_told_in_one_line(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(archive({"a.png": picture(1)}))

    def failing(*_: object, **__: object) -> httpx.Response:
        raise httpx.ConnectError("away")

    monkeypatch.setattr(httpx, "put", failing)
    with (
        target.connect(None, None, Path()) as client,
        pytest.raises(CommandError, match=r"part 1 of set\.zip could not be sent"),
    ):
        parts.upload_in_parts(client, dataset, path, lambda _: None)
