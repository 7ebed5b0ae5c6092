"""A receiver of webhooks on this machine, and leave to send to it."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app.settings import Settings, get_settings
from app.webhooks import addresses

Answer = Callable[[BaseHTTPRequestHandler], None]


class Receiver(ThreadingHTTPServer):
    """Remembers what it is sent, and answers as it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[tuple[dict[str, str], bytes]] = []
        # Statuses of the next answers; 204 when there are none.
        self.statuses: list[int] = []
        # Set while nobody is answered.
        self.held = threading.Event()
        self.let_go = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Receiver)
        body = self.rfile.read(int(self.headers["content-length"]))
        server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        if server.held.is_set():
            server.let_go.wait(30)
        status = server.statuses.pop(0) if server.statuses else 204
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", server.url)
        answer = b"" if status == 204 else b"it was \0 so"
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver over plain HTTP."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.let_go.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def settings_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Give whoever sends webhooks other settings."""

    def change(**fields: object) -> Settings:
        changed = get_settings().model_copy(update=fields)
        for module in (addresses, "app.webhooks.sending", "worker.webhooks"):
            name = module if isinstance(module, str) else module.__name__
            monkeypatch.setattr(f"{name}.get_settings", lambda: changed)
        return changed

    return change


@pytest.fixture
def inside(settings_with: Callable[..., Settings]) -> None:
    """As an operator who lets webhooks go to this machine over plain HTTP."""
    settings_with(webhook_allowed_networks=("127.0.0.0/8",), webhook_allow_http=True)
