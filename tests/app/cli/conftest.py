"""What the command line's tests share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from app.cli import target
from app.cli.client import Client


@pytest.fixture
def stack_dir() -> Iterator[Path]:
    """An empty folder for a stack.

    Not under pytest's own, whose mode each run sets back to its owner's alone: root's Postgres,
    which runs as another user, could not enter it.
    """
    with tempfile.TemporaryDirectory(prefix="lorawright-stack-") as folder:
        yield Path(folder) / "stack"


@pytest.fixture
def connected(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """The command line's client, talking to the application in this process."""

    class Transport(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = client.request(
                request.method,
                str(request.url),
                content=request.read(),
                headers={name: value for name, value in request.headers.items() if name != "host"},
            )
            return httpx.Response(
                answer.status_code, headers=answer.headers, content=answer.content
            )

    key = client.headers["Authorization"].removeprefix("Bearer ")
    monkeypatch.setattr(
        target, "connect", lambda *_: Client("http://testserver", key, transport=Transport())
    )
    return client
