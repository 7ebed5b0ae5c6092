"""Forms are taken apart as they arrive: after the key, within their limits, leaving nothing."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from app.errors import ServiceUnavailable
from app.settings import get_settings
from app.web.forms import FormRules, receive_form
from tests.app.conftest import MakeDataset
from tests.pictures import picture

BOUNDARY = "a-boundary"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
END = f"--{BOUNDARY}--\r\n".encode()


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where requests keep their files; empty after each test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def dataset_id(make_dataset: MakeDataset) -> str:
    return make_dataset()


def part(
    data: bytes, *, name: str = "files", filename: str | None = "a.png", header: str = ""
) -> bytes:
    told = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{told}\r\n{header}\r\n'
    return head.encode() + data + b"\r\n"


def send(client: TestClient, path: str, body: bytes, content_type: str = MULTIPART) -> Any:
    return client.post(path, content=body, headers={"Content-Type": content_type})


async def call(
    app: Any, path: str, headers: dict[str, str], messages: list[dict[str, Any]]
) -> tuple[int, int]:
    """Speak ASGI: the status, and how many of the body's messages were asked for."""
    left = list(messages)
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    async def answer(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(
        {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        },
        receive,
        answer,
    )
    return statuses[0], len(messages) - len(left)


def chunk(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_nothing_of_the_body_is_read_before_the_key_and_the_dataset_are_checked(
    client: TestClient, subtests: pytest.Subtests
) -> None:
    good = str(client.headers["Authorization"])
    for path, key, status in (
        ("/v1/datasets/ds_none/images", "Bearer lw_live_wrong", 401),
        ("/v1/datasets/ds_none/images", good, 404),
        ("/v1/loras", "Bearer lw_live_wrong", 401),
        ("/v1/loras/inspect", "Bearer lw_live_wrong", 401),
        ("/v1/inputs", "Bearer lw_live_wrong", 401),
    ):
        with subtests.test(path):
            headers = {"Authorization": key, "Content-Type": MULTIPART}
            found = asyncio.run(call(client.app, path, headers, [chunk(part(picture()))]))
            assert found == (status, 0)


def test_a_broken_connection_leaves_nothing(client: TestClient, dataset_id: str) -> None:
    headers = {"Authorization": str(client.headers["Authorization"]), "Content-Type": MULTIPART}
    messages = [chunk(part(picture())), {"type": "http.disconnect"}]
    path = f"/v1/datasets/{dataset_id}/images"
    assert asyncio.run(call(client.app, path, headers, messages)) == (400, 2)
    assert client.get(f"/v1/datasets/{dataset_id}").json()["image_count"] == 0


def test_no_connection_is_held_while_the_body_arrives(client: TestClient, dataset_id: str) -> None:
    from app.database import get_engine

    busy: list[int] = []

    class Watched(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            if name == "type":
                busy.append(get_engine().pool.checkedout())  # type: ignore[attr-defined]
            return super().__getitem__(name)

    headers = {"Authorization": str(client.headers["Authorization"]), "Content-Type": MULTIPART}
    messages = [Watched(chunk(part(picture()))), Watched(chunk(END, more=False))]
    path = f"/v1/datasets/{dataset_id}/images"
    assert asyncio.run(call(client.app, path, headers, messages)) == (201, 2)
    assert busy
    assert set(busy) == {0}


NO_FORMS: dict[str, tuple[bytes, int, str, str]] = {
    "nothing": (b"", 400, "form_unreadable", "boundary"),
    "a text": (b"not a form", 400, "form_unreadable", "cannot be read"),
    "no end": (part(picture()), 400, "form_unreadable", "ends in the middle"),
    "a long header": (
        *(part(picture(), header="X-Long: " + "x" * 5000 + "\r\n"), 400),
        *("form_unreadable", "4096"),
    ),
    "many headers": (
        *(part(picture(), header="X-A: b\r\n" * 20), 400, "form_unreadable", "8 headers"),
    ),
    "another field": (part(b"x", name="pictures") + END, 422, "invalid_request", "'pictures'"),
    "a text as file": (part(b"x", filename=None) + END, 422, "invalid_request", "filename"),
    "no part": (END, 422, "invalid_request", "no file"),
}


def test_a_form_that_is_none_is_refused_with_its_reason(
    client: TestClient, dataset_id: str, subtests: pytest.Subtests
) -> None:
    for case, (body, status, code, fact) in NO_FORMS.items():
        with subtests.test(case):
            answer = send(client, f"/v1/datasets/{dataset_id}/images", body)
            assert answer.status_code == status, answer.text
            problem = answer.json()
            assert problem["code"] == code
            assert fact in problem["detail"]


def test_another_kind_of_body_is_a_415(client: TestClient, dataset_id: str) -> None:
    path = f"/v1/datasets/{dataset_id}/images"
    for kind in ("application/json", "application/x-www-form-urlencoded"):
        assert send(client, path, b"{}", kind).json()["code"] == "unsupported_media_type"
    assert send(client, path, b"{}", "multipart/form-data").json()["code"] == "form_unreadable"


def test_too_many_files_are_refused_at_the_first_one_too_many(
    client: TestClient, dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = get_settings().model_copy(update={"max_upload_files": 2})
    monkeypatch.setattr("app.datasets.routes.get_settings", lambda: small)
    # The form does not even end.
    body = b"".join(part(picture(n), filename=f"{n}.png") for n in range(3))
    answer = send(client, f"/v1/datasets/{dataset_id}/images", body)
    assert answer.status_code == 413
    assert "LORAWRIGHT_MAX_UPLOAD_FILES) is 2" in answer.json()["detail"]
    assert "has 3 files" in answer.json()["detail"]


def test_of_a_picture_over_its_limit_no_more_is_kept_and_the_others_are_taken(
    client: TestClient, dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = get_settings().model_copy(update={"max_image_bytes": 50_000})
    monkeypatch.setattr("app.datasets.routes.get_settings", lambda: small)
    body = part(b"x" * 3_000_000, filename="large.png") + part(picture(), filename="b.png") + END
    answer = send(client, f"/v1/datasets/{dataset_id}/images", body).json()
    large, kept = sorted(answer["data"], key=lambda item: item["status"], reverse=True)
    assert (large["code"], kept["status"]) == ("image_too_large", "accepted")
    assert "3000000 bytes" in large["reason"]


def test_a_single_file_over_its_limit_is_refused_at_once(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = get_settings().model_copy(update={"max_image_bytes": 1_000_000})
    monkeypatch.setattr("app.generations.routes.get_settings", lambda: small)
    # The form does not end.
    answer = send(client, "/v1/inputs", part(b"x" * 3_000_000, name="file"))
    assert answer.status_code == 413
    assert "LORAWRIGHT_MAX_IMAGE_BYTES) is 1000000" in answer.json()["detail"]


def test_names_lose_their_folders_and_what_cannot_be_shown(
    client: TestClient, dataset_id: str
) -> None:
    body = part(picture(1), filename="C:\\my pictures\\b\x07.png")
    body += part(picture(2), filename="é.png") + END
    answer = send(client, f"/v1/datasets/{dataset_id}/images", body).json()
    assert [item["filename"] for item in answer["data"]] == ["b_.png", "é.png"]


def test_a_form_arrives_whole_however_it_is_cut(client: TestClient, dataset_id: str) -> None:
    body = b"".join(part(picture(n), filename=f"{n}.png") for n in range(3)) + END
    headers = {"Authorization": str(client.headers["Authorization"]), "Content-Type": MULTIPART}
    pieces = [chunk(body[at : at + 97]) for at in range(0, len(body), 97)]
    pieces.append(chunk(b"", more=False))
    path = f"/v1/datasets/{dataset_id}/images"
    assert asyncio.run(call(client.app, path, headers, pieces))[0] == 201
    assert client.get(f"/v1/datasets/{dataset_id}").json()["image_count"] == 3


def test_a_full_disk_is_a_503(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("full")
    (folder / "upload-000000").symlink_to("/dev/full")
    messages = [chunk(part(picture()) + END, more=False)]

    async def receive() -> dict[str, Any]:
        return messages.pop()

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", MULTIPART.encode())]}
    rules = FormRules("files", (1, ""), lambda _: (10**6, ""))
    with pytest.raises(ServiceUnavailable, match="No space left"):
        asyncio.run(receive_form(Request(scope, receive), folder, rules))


def test_the_contract_describes_each_form(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, field in (
        ("/v1/datasets/{dataset_id}/images", "files"),
        ("/v1/loras", "file"),
        ("/v1/loras/inspect", "file"),
        ("/v1/inputs", "file"),
    ):
        post = document["paths"][path]["post"]
        reference = post["requestBody"]["content"]["multipart/form-data"]["schema"]["$ref"]
        schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        assert schema["required"] == [field]
        file = schema["properties"][field]
        assert file.get("items", file)["contentMediaType"] == "application/octet-stream"
