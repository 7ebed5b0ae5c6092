"""EmbeddedStack: servers, schema, first key, then API, workers and beat, until told to stop."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from app.cli.nvidia import has_nvidia_gpu
from app.cli.stack.child import Child
from app.cli.stack.errors import StopAsked
from app.cli.stack.ports import LOOPBACK, require_free
from app.cli.stack.processes import api_child, beat_child, worker_children
from app.cli.stack.servers import EmbeddedServers
from app.cli.stack.state import STATE_FILE, exclusive, save_state

DEFAULT_API_PORT = 8000
WATCH_SECONDS = 0.5
# A child that ends is started again, but not more than so often within so long.
RESTARTS = 3
RESTART_WINDOW_SECONDS = 120.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class StackOptions:
    """Where the stack listens. `None` for a server's port means the kept one, or a free one."""

    host: str = LOOPBACK
    port: int = DEFAULT_API_PORT
    postgres_port: int | None = None
    redis_port: int | None = None
    s3_port: int | None = None

    def server_ports(self) -> dict[str, int]:
        """Those that were chosen."""
        ports = {"postgres": self.postgres_port, "redis": self.redis_port, "s3": self.s3_port}
        return {server: port for server, port in ports.items() if port is not None}


def default_models() -> dict[str, str]:
    """Which base model and captioner suit this machine: SDXL needs a GPU, the emoji ones do not."""
    if has_nvidia_gpu():
        base_model, captioner = "sdxl-1.0", "blip-large"
    else:
        base_model, captioner = "emoji-64", "emoji-blip"
    return {
        "LORAWRIGHT_DEFAULT_BASE_MODEL": base_model,
        "LORAWRIGHT_DEFAULT_CAPTIONER": captioner,
    }


@dataclass
class _Supervised:
    child: Child
    restarts: deque[float] = field(default_factory=deque)


class EmbeddedStack:
    """The whole stack over one folder.

    `run(stop)` starts it, keeps it running until `stop` is set, and ends it in order.
    """

    def __init__(
        self,
        data_dir: Path,
        options: StackOptions,
        *,
        environ: Mapping[str, str],
        report: Report,
    ) -> None:
        """Nothing is started yet.

        Args:
            environ: LORAWRIGHT_* variables found here win over the stack's own.
            report: told in a sentence of everything that a person should see.
        """
        self._options = options
        self._report = report
        self._environ = {
            name: value for name, value in environ.items() if name.startswith("LORAWRIGHT_")
        }
        self._servers = EmbeddedServers(
            data_dir, ports=options.server_ports(), provided=self._environ
        )
        self._processes: list[Child] = []
        self.data_dir = self._servers.data_dir

    @property
    def url(self) -> str:
        """Where the API is reached."""
        host = (
            "localhost" if self._options.host in (LOOPBACK, "0.0.0.0", "::") else self._options.host
        )
        return f"http://{host}:{self._options.port}"

    @property
    def api_key(self) -> str | None:
        """The first admin key, where it was made by a stack on this folder."""
        return self._servers.state.api_key

    def run(self, stop: threading.Event) -> None:
        """Start, report, keep running until `stop` is set, end in order.

        Raises:
            StackError: it cannot start, or a child keeps ending.
        """
        self.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        with exclusive(self.data_dir):
            try:
                self._start(stop)
                self._watch(stop)
            except StopAsked:
                pass
            finally:
                self._stop()

    def hurry(self) -> None:
        """End API, workers and beat at once; what they leave undone waits for the next start."""
        for child in self._processes:
            child.kill()

    def _start(self, stop: threading.Event) -> None:
        began = time.monotonic()
        self._servers.prepare()
        require_free("api", self._options.host, self._options.port, "--port")
        self._servers.start()
        state = self._servers.state
        state.pid, state.url, state.ready = os.getpid(), self.url, False
        self._servers.record()
        self._prepare_database()
        variables = self._variables()
        logs = self.data_dir / "logs"
        settings = self._servers.settings()
        self._processes = [
            api_child(self._options.host, self._options.port, variables, logs),
            *worker_children(settings.redis_url, variables, logs),
            beat_child(self.data_dir, variables, logs),
        ]
        for child in self._processes:
            child.start()
        self._servers.record(self._processes)
        for child in self._processes:
            child.wait_ready(stop)
        state.ready = True
        self._servers.record(self._processes)
        self._report(f"The stack is up after {time.monotonic() - began:.1f} s: {self.url}")
        self._report(
            f"Open it in a browser, and sign in with the api_key of {self.data_dir / STATE_FILE}"
        )

    def _variables(self) -> dict[str, str]:
        return {
            **default_models(),
            **self._servers.environment(),
        }

    def _prepare_database(self) -> None:
        # Imported here: Alembic takes a while, in which the servers are starting.
        from app.accounts.service import bootstrap_admin
        from app.migrate import upgrade

        state = self._servers.state
        database_url = self._servers.settings().database_url
        upgrade(database_url)
        engine = create_engine(database_url)
        try:
            with Session(engine) as session, session.begin():
                key = bootstrap_admin(session)
        finally:
            engine.dispose()
        if key is not None:
            state.api_key, state.api_key_database_url = key, database_url
        elif state.api_key_database_url != database_url:
            state.api_key = state.api_key_database_url = None
            self._report(
                "This database has accounts already; make a key with `lorawright key create`."
            )
        save_state(self.data_dir, state)

    def _watch(self, stop: threading.Event) -> None:
        """Start again what ends by itself, until `stop` is set."""
        watched = [_Supervised(child) for child in [*self._servers.children, *self._processes]]
        while not stop.wait(WATCH_SECONDS):
            for supervised in watched:
                if not supervised.child.is_alive():
                    self._restart(supervised)

    def _restart(self, supervised: _Supervised) -> None:
        child, now = supervised.child, time.monotonic()
        ended = child.ended()
        while supervised.restarts and now - supervised.restarts[0] > RESTART_WINDOW_SECONDS:
            supervised.restarts.popleft()
        if len(supervised.restarts) == RESTARTS:
            raise child.failure(f"ended {RESTARTS + 1} times within {RESTART_WINDOW_SECONDS:.0f} s")
        supervised.restarts.append(now)
        self._report(str(ended))
        child.stop()
        child.start()
        self._servers.record(self._processes)
        self._report(f"{child.name} is started again ({len(supervised.restarts)} of {RESTARTS}).")

    def _stop(self) -> None:
        for child in self._processes:
            child.ask_to_stop()
        for child in self._processes:
            child.stop()
        self._processes = []
        state = self._servers.state
        state.pid, state.ready = None, False
        self._servers.stop()
