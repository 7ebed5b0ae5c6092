"""One real stack for all pages, and what each page finds when it begins.

The stack is `lorawright up`, with its workers, on `emoji-64` and `emoji-blip`, so nothing is
downloaded and no GPU is needed. Two things differ from a reader's, so that all pages together take
minutes rather than hours: the catalog gives trainings two epochs of one repeat instead of what
`assets/catalog.toml` says (a training still does everything once: upload, buckets, steps,
validation, checkpoints, publication), and pictures four steps where a page names no number. What
the LoRAs look like is therefore not looked at here; tests/e2e does that.
"""

import http.server
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from app.accounts import keys
from app.accounts import service as accounts
from app.cli.stack.ports import LOOPBACK, free_port
from app.cli.stack.state import LOCK_FILE, STATE_FILE, StackState
from app.settings import REPOSITORY
from tests.docs.pages import blocks_of
from tests.docs.reader import Reader, Stage

READY_SECONDS = 180.0
STOP_SECONDS = 60.0
ENDED = ("succeeded", "failed", "canceled")
# Readers see these in the docs.
LOCAL, ELSEWHERE = "http://localhost:8000", "https://loras.example.com"
RECEIVER = "https://studio.example.com"
KEY = "lw_live_…"
PORT = "port=9000"
SHORTER = {
    "steps = 20": "steps = 4",
    "num_repeats = 4": "num_repeats = 1",
    "epochs = 20": "epochs = 2",
}


@dataclass(frozen=True)
class Stack:
    """A running stack: its folder, and where webhooks may go."""

    data_dir: Path
    receiver: str

    @property
    def demo(self) -> Path:
        """`ink.safetensors` and `riso.safetensors`, once the README has been read.

        A reader has files of these names from `make demo`, which trains for longer.
        """
        return self.data_dir.parent / "demo"

    def state(self) -> StackState:
        """What stack.json says."""
        return StackState.model_validate_json((self.data_dir / STATE_FILE).read_text())


@contextmanager
def running_stack() -> Iterator[Stack]:
    """`lorawright up` for the length of the block; or the one that DOCS_STACK names, to save time
    while a page is written."""
    with receiving() as receiver:
        given = os.environ.get("DOCS_STACK")
        if given:
            yield Stack(Path(given), receiver)
            return
        # Not pytest's own folder: only its owner may enter that, and Postgres refuses to be root.
        with tempfile.TemporaryDirectory(prefix="lorawright-docs-") as name:
            folder = Path(name)
            folder.chmod(0o711)
            stack = Stack(folder / "data", receiver)
            log = folder / "up.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [*up_command(stack.data_dir)],
                    env=environment(folder),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            try:
                _wait_ready(stack, process, log)
                yield stack
            finally:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(STOP_SECONDS)
                finally:
                    process.kill()
                    process.wait()


def up_command(data_dir: Path) -> list[str]:
    """What `make up` does, on a free port."""
    program = [sys.executable, "-m", "app.cli.main", "up"]
    return [*program, "--data-dir", str(data_dir), "--port", str(free_port())]


def environment(folder: Path) -> dict[str, str]:
    """Of the stack: none of another stack's variables, and the short catalog."""
    catalog = folder / "catalog.toml"
    catalog.write_text(short_catalog())
    kept = {name: v for name, v in os.environ.items() if not name.startswith("LORAWRIGHT_")}
    return kept | {
        "PYTHONPATH": str(REPOSITORY),
        "LORAWRIGHT_CATALOG_PATH": str(catalog),
        "LORAWRIGHT_DEFAULT_BASE_MODEL": "emoji-64",
        "LORAWRIGHT_DEFAULT_CAPTIONER": "emoji-blip",
        # As docs/webhooks.md advises for trying them on one machine.
        "LORAWRIGHT_WEBHOOK_ALLOW_HTTP": "true",
        "LORAWRIGHT_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    }


def short_catalog() -> str:
    """The catalog with short trainings."""
    text = (REPOSITORY / "assets" / "catalog.toml").read_text()
    for long, short in SHORTER.items():
        assert long in text, f"assets/catalog.toml has no {long!r} to shorten"
        text = text.replace(long, short)
    return re.sub(r'source = "(emoji-[\w-]+)"', rf'source = "{REPOSITORY}/assets/\1"', text)


def _wait_ready(stack: Stack, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + READY_SECONDS
    while not ((stack.data_dir / STATE_FILE).exists() and stack.state().ready):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < ends, log.read_text()
        time.sleep(0.1)


@contextmanager
def receiving() -> Iterator[str]:
    """An address that takes whatever webhooks are sent to it."""

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """In silence."""

    with http.server.ThreadingHTTPServer((LOOPBACK, 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{LOOPBACK}:{server.server_port}"
        server.shutdown()


@contextmanager
def reading(stack: Stack) -> Iterator[Reader]:
    """A reader with an account of its own; what the page leaves unfinished is canceled."""
    state = stack.state()
    assert state.url is not None
    key = _new_operator(state)
    servers = {
        "LORAWRIGHT_DATABASE_URL": state.database_url,
        "LORAWRIGHT_REDIS_URL": state.redis_url,
        "LORAWRIGHT_S3_ENDPOINT_URL": state.s3_endpoint_url,
        "LORAWRIGHT_S3_ACCESS_KEY_ID": state.secrets.s3_access_key_id,
        "LORAWRIGHT_S3_SECRET_ACCESS_KEY": state.secrets.s3_secret_access_key,
        "LORAWRIGHT_DEFAULT_BASE_MODEL": "emoji-64",
        "LORAWRIGHT_DEFAULT_CAPTIONER": "emoji-blip",
    }
    stage = Stage(
        environment={name: value for name, value in servers.items() if value},
        stands_for={
            LOCAL: state.url,
            ELSEWHERE: state.url,
            RECEIVER: stack.receiver,
            KEY: key,
            PORT: f"port={free_port()}",
        },
        opening=opening(),
    )
    with tempfile.TemporaryDirectory(prefix="lorawright-page-") as name:
        folder = Path(name)
        # `lorawright` finds the stack here, and this page's own key.
        own = folder / ".lorawright"
        own.mkdir()
        (own / STATE_FILE).write_text(state.model_copy(update={"api_key": key}).model_dump_json())
        (own / LOCK_FILE).symlink_to(stack.data_dir / LOCK_FILE)
        if stack.demo.exists():
            (folder / "demo").symlink_to(stack.demo)
        try:
            with Reader(folder, stage) as reader:
                yield reader
        finally:
            _cancel_everything(state.url, key)


def opening() -> str:
    """The README's definition of $api, $auth and $json, which other pages refer to."""
    return next(
        block.text.partition("\n\n")[0]
        for block in blocks_of(REPOSITORY / "README.md")
        if block.text.startswith("api=")
    )


def _new_operator(state: StackState) -> str:
    """The key of a new account that may do everything, as the first one of a stack may."""
    assert state.database_url is not None
    engine = create_engine(state.database_url)
    try:
        with Session(engine) as session, session.begin():
            account = accounts.create_account(session, "reader", role="admin")
            return keys.create_key(session, account.id, "reader", keys.ALL_SCOPES)[1]
    finally:
        engine.dispose()


def _cancel_everything(url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        jobs = client.get("/v1/jobs", params={"limit": 100}).raise_for_status().json()["data"]
        ids = [job["id"] for job in jobs if job["status"] not in ENDED]
        if ids:
            client.post("/v1/admin/jobs/cancel", json={"ids": ids}).raise_for_status()
