"""The REST client: errors in one line, promises kept over broken connections, whole files."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.cli.client import ApiError, Client, JobFailed, api_error
from app.cli.errors import CommandError

Handler = Callable[[httpx.Request], httpx.Response]


def _client(handler: Handler) -> Client:
    return Client("http://server", "lw_live_key", transport=httpx.MockTransport(handler))


def _job(status: str, **more: object) -> httpx.Response:
    return httpx.Response(200, json={"id": "trn_1", "status": status, "error": None, **more})


def test_a_problem_is_one_line_with_its_code_and_each_wrong_field() -> None:
    body = {
        "title": "The request has invalid values",
        "detail": "2 values are wrong",
        "code": "invalid_request",
        "errors": [
            {"pointer": "/params/rank", "detail": "must be at most 256"},
            {"pointer": "/name", "detail": "is missing"},
        ],
    }
    assert str(api_error(422, json.dumps(body))) == (
        "2 values are wrong: /params/rank: must be at most 256; /name: is missing "
        "(422 invalid_request)"
    )


def test_a_field_that_the_detail_tells_already_is_not_told_twice() -> None:
    body = {
        "title": "wrong",
        "detail": "/name: is missing",
        "code": "invalid_request",
        "errors": [{"pointer": "/name", "detail": "is missing"}],
    }
    assert str(api_error(422, json.dumps(body))) == "/name: is missing (422 invalid_request)"


@pytest.mark.parametrize("body", ["<h1>Bad gateway</h1>", "[]", "{}", ""])
def test_an_answer_that_is_no_problem_is_shown_as_it_is(body: str) -> None:
    error = api_error(502, body)
    assert error.code == "unknown"
    assert str(error) == f"the server answered 502: {body}"


def test_a_creation_is_sent_again_with_the_same_idempotency_key() -> None:
    keys: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            return httpx.Response(503, headers={"Retry-After": "0"})
        return httpx.Response(201, json={"id": "ds_1"})

    with _client(handler) as client:
        assert client.post("/datasets", {})["id"] == "ds_1"
        client.post("/datasets", {})
    assert keys[0] == keys[1] != keys[2]


def test_a_creation_that_may_have_arrived_is_not_sent_again() -> None:
    sent: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request.method)
        if request.method == "POST":
            raise httpx.ReadError("connection reset")
        return httpx.Response(200, json={})

    with _client(handler) as client:
        client.get("/jobs")
        with pytest.raises(CommandError, match="connection reset"):
            client.post("/trainings", {})
    assert sent == ["GET", "POST"]


def test_a_server_that_never_answered_is_reported_at_once() -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        raise httpx.ConnectError("connection refused")

    with _client(handler) as client, pytest.raises(CommandError, match="http://server cannot be"):
        client.get("/jobs")
    assert asked == ["/v1/jobs"]


def test_a_broken_event_stream_goes_on_after_its_last_event() -> None:
    statuses = iter(["queued", "running", "running", "running", "succeeded"])
    streams: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/events"):
            return _job(next(statuses))
        streams.append(request.headers.get("Last-Event-ID"))
        text = f"id: {len(streams) * 7}\nevent: status\ndata: {{}}\n\n"
        return httpx.Response(200, text=text)

    seen: list[str] = []
    with _client(handler) as client:
        client.follow("/trainings/trn_1", lambda job: seen.append(job["status"]))
    assert streams == [None, "7"]
    assert seen == ["queued", "running", "running", "running", "succeeded"]


def test_without_an_event_stream_the_job_is_polled() -> None:
    statuses = iter(["queued", "running", "succeeded"])

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(404, text="no such page")
        return _job(next(statuses))

    with _client(handler) as client:
        assert client.wait("/trainings/trn_1", lambda _: None)["status"] == "succeeded"


def test_a_failed_job_tells_its_own_error() -> None:
    error = {"code": "training_diverged", "message": "The loss is not a number", "retryable": False}

    def handler(_: httpx.Request) -> httpx.Response:
        return _job("failed", error=error)

    with (
        _client(handler) as client,
        pytest.raises(JobFailed, match=r"trn_1 failed: The loss .* \(training_diverged\)"),
    ):
        client.wait("/trainings/trn_1", lambda _: None)


def test_every_page_of_a_list_is_fetched() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if "after" in request.url.params:
            assert request.url.params["after"] == "job_2"
            return httpx.Response(200, json={"data": [{"id": "job_1"}], "has_more": False})
        page = {"data": [{"id": "job_3"}, {"id": "job_2"}], "has_more": True, "next": "job_2"}
        return httpx.Response(200, json=page)

    with _client(handler) as client:
        assert [job["id"] for job in client.every("/jobs")] == ["job_3", "job_2", "job_1"]


def test_a_refused_download_leaves_no_file(tmp_path: Path) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        problem = {"title": "gone", "code": "output_expired"}
        return httpx.Response(410, json=problem)

    with _client(handler) as client, pytest.raises(ApiError, match=r"gone \(410 output_expired\)"):
        client.download("/v1/loras/lora_1/download", tmp_path / "style.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_download_appears_under_its_own_name_when_it_is_whole(tmp_path: Path) -> None:
    with _client(lambda _: httpx.Response(200, content=b"weights")) as client:
        client.download("/v1/loras/lora_1/download", tmp_path / "style.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["style.safetensors"]
    assert (tmp_path / "style.safetensors").read_bytes() == b"weights"
