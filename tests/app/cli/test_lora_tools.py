"""`lorawright lora convert|resize|merge|extract` over the real API, jobs run in this process."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from app.cli.client import Client
from app.cli.commands.lora import app
from app.cli.commands.lora_tools import parse_weighted
from app.cli.errors import CommandError
from tests.safetensors_files import sound, whole
from worker.runner import run_next

runner = CliRunner()


@pytest.fixture
def working(
    connected: TestClient,  # noqa: ARG001 (order)
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """A worker beside the test, until its end."""
    monkeypatch.chdir(tmp_path)
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            if not run_next("ingest"):
                over.wait(0.05)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.fixture
def upload(connected: TestClient) -> Callable[[str], dict[str, Any]]:
    def send(name: str) -> dict[str, Any]:
        data = sound(whole("emoji-64", 4), {"ss_training_comment": name})
        files = {"file": (f"{name}.safetensors", data, "application/octet-stream")}
        answer = connected.post("/v1/loras", files=files)
        assert answer.status_code == 201, answer.text
        result: dict[str, Any] = answer.json()
        return result

    return send


def invoke(*words: str) -> Result:
    done = runner.invoke(app, list(words))
    assert done.exception is None or isinstance(done.exception, CommandError), done.output
    return done


@pytest.mark.usefixtures("working")
def test_a_resize_shows_its_progress_and_tells_the_error(
    connected: TestClient, upload: Callable[[str], dict[str, Any]]
) -> None:
    upload("ink")
    done = invoke("resize", "ink", "--rank", "1", "--name", "small ink")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert any(line.startswith("resize: ") for line in lines)
    newest = connected.get("/v1/loras").json()["data"][0]
    # Every value of the upload is the same, so rank 1 holds it but for rounding.
    assert lines[-1].startswith(f"{newest['id']}  small ink: rank 1, with an error of 0")
    assert newest["rank"] == 1


@pytest.mark.usefixtures("working")
def test_a_merge_takes_names_and_weights(
    connected: TestClient, upload: Callable[[str], dict[str, Any]]
) -> None:
    upload("ink")
    fur = upload("fur")
    done = invoke("merge", "ink:0.5", fur["id"], "--precision", "float32")
    assert done.exit_code == 0, done.output
    job = connected.get("/v1/lora-tools").json()["data"][0]
    assert [(each["name"], each["weight"]) for each in job["inputs"]] == [("ink", 0.5), ("fur", 1)]
    assert "ink + fur: rank 8, with an error of 0%" in done.output


@pytest.mark.usefixtures("working")
def test_a_converted_lora_can_be_downloaded(
    upload: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    lora = upload("ink")
    done = invoke("convert", "ink", "--format", "kohya")
    assert done.exit_code == 0, done.output
    assert f"{lora['id']} can be had as kohya" in done.output
    done = invoke("download", "ink", "--format", "kohya", "--output", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "ink.safetensors").stat().st_size > 1000


@pytest.mark.usefixtures("working")
def test_a_tool_that_fails_says_why(upload: Callable[[str], dict[str, Any]]) -> None:
    upload("ink")
    done = invoke("convert", "ink", "--format", "peft")
    assert isinstance(done.exception, CommandError)
    assert "text_encoder" in str(done.exception)
    assert "lora_layout_unsupported" in str(done.exception)


@pytest.mark.usefixtures("connected")
def test_what_the_server_refuses_is_told_with_its_field() -> None:
    done = invoke("extract", "emoji-64", "sd-9", "--rank", "4")
    assert isinstance(done.exception, CommandError)
    assert "no base model 'sd-9'" in str(done.exception)


def test_a_weight_stands_after_the_last_colon() -> None:
    assert parse_weighted("ink:a:0.5") == {"lora": "ink:a", "weight": 0.5}
    assert parse_weighted("ink") == {"lora": "ink"}
    with pytest.raises(CommandError, match="'heavy' is not a number"):
        parse_weighted("ink:heavy")


def test_a_file_still_being_made_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [503, 503, 200]
    monkeypatch.setattr("app.cli.client.RETRY_SECONDS", 0.0)

    def answer(_: httpx.Request) -> httpx.Response:
        status = answers.pop(0)
        problem = {"title": "The file is being made", "code": "lora_conversion_pending"}
        return httpx.Response(status, json=problem if status == 503 else {"bytes": 1})

    with Client("http://server", "key", transport=httpx.MockTransport(answer)) as client:
        client.download("/v1/loras/lora_1/download?format=peft", tmp_path / "ink.zip")
    assert answers == []
    assert (tmp_path / "ink.zip").exists()
