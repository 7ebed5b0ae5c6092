"""Postgres, Redis and S3 for one folder: those that the environment does not provide already."""

import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import psycopg
import redis

from app.cli.stack import postgres, s3
from app.cli.stack import redis as embedded_redis
from app.cli.stack.child import Child
from app.cli.stack.errors import StackError
from app.cli.stack.ports import LOOPBACK, free_port, require_free
from app.cli.stack.state import StackState, load_state, save_state
from app.errors import LorawrightError
from app.settings import Settings
from app.storage import make_store

DATABASE_URL = "LORAWRIGHT_DATABASE_URL"
REDIS_URL = "LORAWRIGHT_REDIS_URL"
S3_ENDPOINT_URL = "LORAWRIGHT_S3_ENDPOINT_URL"
# How long a killed supervisor's children may take to end before they are killed as well.
LEFTOVER_SECONDS = 10.0


class EmbeddedServers:
    """The three servers over `data_dir`: start, say where they are, stop. Data stays.

    `with EmbeddedServers(folder) as servers:` runs them for a block; `servers.environment()` is
    what a process needs to use them. `postgres`, `redis` and `s3` are the children (None where
    the environment names another server), which a test may stop and start alone.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        ports: Mapping[str, int] | None = None,
        provided: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            ports: of `postgres`, `redis`, `s3`, where another than the kept or a free one is
                wanted.
            provided: LORAWRIGHT_* variables of servers that run elsewhere; those are used instead.
        """
        self.data_dir = data_dir.resolve()
        self._chosen_ports = dict(ports or {})
        self._provided = {
            name: value
            for name, value in (provided or {}).items()
            if name.startswith("LORAWRIGHT_")
        }
        self.state = StackState()
        self._prepared = False
        self.postgres: Child | None = None
        self.redis: Child | None = None
        self.s3: Child | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def children(self) -> list[Child]:
        """Those that are ours, in the order in which they start."""
        return [child for child in (self.postgres, self.redis, self.s3) if child is not None]

    def prepare(self) -> None:
        """Read what is kept of earlier starts, and end what a killed supervisor has left.

        Raises:
            StackError: stack.json cannot be read.
        """
        self.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.state = load_state(self.data_dir) or StackState()
        self._prepared = True
        self._end_leftovers()

    def start(self) -> None:
        """Start all at once, wait for each, and make the database and the bucket.

        Raises:
            StackError: a port is taken, a wheel is missing, a server does not come up, or one
                that the environment names does not answer.
        """
        self.prepare()
        logs = self.data_dir / "logs"
        logs.mkdir(mode=0o700, exist_ok=True)
        try:
            # Initialising a new database takes a second, in which the others come up.
            if REDIS_URL not in self._provided:
                self.redis = embedded_redis.redis_child(
                    self.data_dir / "redis",
                    self._claim_port("redis"),
                    self.state.secrets.redis_password,
                    logs / "redis.log",
                )
                self.redis.start()
            if S3_ENDPOINT_URL not in self._provided:
                port = self._claim_port("s3")
                self.s3 = s3.s3_child(self.data_dir / "s3", port, self.settings(), logs / "s3.log")
                self.s3.start()
            if DATABASE_URL not in self._provided:
                self.postgres = postgres.postgres_child(
                    self.data_dir / "postgres",
                    self._claim_port("postgres"),
                    self.state.secrets.postgres_password,
                    logs / "postgres.log",
                )
                self.postgres.start()
            self.record()
            for child in self.children:
                child.wait_ready()
            self._check_provided()
            if self.postgres is not None:
                postgres.ensure_database(
                    self.state.ports["postgres"], self.state.secrets.postgres_password
                )
            self._ensure_bucket()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all in order; their data stays. Harmless where nothing runs."""
        for child in self.children:
            child.ask_to_stop()
        for child in reversed(self.children):
            child.stop()
        self.postgres = self.redis = self.s3 = None
        if self._prepared:
            self.state.processes = {}
            save_state(self.data_dir, self.state)

    def environment(self) -> dict[str, str]:
        """The LORAWRIGHT_* variables by which any process of the service finds these servers."""
        variables: dict[str, str] = {}
        if DATABASE_URL not in self._provided:
            variables[DATABASE_URL] = postgres.database_url(
                self._port("postgres"), self.state.secrets.postgres_password
            )
        if REDIS_URL not in self._provided:
            variables[REDIS_URL] = embedded_redis.redis_url(
                self._port("redis"), self.state.secrets.redis_password
            )
        if S3_ENDPOINT_URL not in self._provided:
            variables[S3_ENDPOINT_URL] = s3.s3_endpoint_url(self._port("s3"))
            variables["LORAWRIGHT_S3_ACCESS_KEY_ID"] = self.state.secrets.s3_access_key_id
            variables["LORAWRIGHT_S3_SECRET_ACCESS_KEY"] = self.state.secrets.s3_secret_access_key
        own = {
            "LORAWRIGHT_WORK_DIR": str(self.data_dir / "work"),
            "LORAWRIGHT_SESSION_SECRET": self.state.secrets.session_secret,
        }
        return own | self._provided | variables

    def settings(self) -> Settings:
        """The same as a `Settings`, for code that runs in this process."""
        values = {
            name.removeprefix("LORAWRIGHT_").lower(): value
            for name, value in self.environment().items()
        }
        return Settings.model_validate(values)

    def record(self, others: list[Child] | None = None) -> None:
        """Write stack.json: where the servers are and which processes run, `others` included."""
        settings = self.settings()
        self.state.database_url = settings.database_url
        self.state.redis_url = settings.redis_url
        self.state.s3_endpoint_url = settings.s3_endpoint_url
        self.state.processes = {
            child.name: record
            for child in [*self.children, *(others or [])]
            if child.is_alive() and (record := child.record()) is not None
        }
        save_state(self.data_dir, self.state)

    def _port(self, server: str) -> int:
        """The chosen port, the kept one, or a free one that is kept from now on."""
        if server in self._chosen_ports:
            self.state.ports[server] = self._chosen_ports[server]
        return self.state.ports.setdefault(server, free_port())

    def _claim_port(self, server: str) -> int:
        port = self._port(server)
        require_free(server, LOOPBACK, port, f"--{server}-port")
        return port

    def _end_leftovers(self) -> None:
        """End what a killed supervisor may have left, so that its ports and data are free."""
        leftovers = []
        for name, record in self.state.processes.items():
            if (process := record.process()) is not None:
                leftovers.append(process)
                # Postgres would wait for its clients at SIGTERM.
                process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        _, stubborn = psutil.wait_procs(leftovers, timeout=LEFTOVER_SECONDS)
        for process in stubborn:
            process.kill()
        psutil.wait_procs(stubborn, timeout=LEFTOVER_SECONDS)

    def _check_provided(self) -> None:
        settings = self.settings()
        if DATABASE_URL in self._provided:
            address = settings.database_url.replace("postgresql+psycopg:", "postgresql:", 1)
            try:
                psycopg.connect(address, connect_timeout=5).close()
            except psycopg.Error as error:
                raise StackError(f"{DATABASE_URL} is set, but: {error}") from error
        if REDIS_URL in self._provided:
            try:
                with redis.Redis.from_url(settings.redis_url, socket_connect_timeout=5) as client:
                    client.ping()
            except redis.RedisError as error:
                raise StackError(f"{REDIS_URL} is set, but: {error}") from error

    def _ensure_bucket(self) -> None:
        settings = self.settings()
        try:
            make_store(settings).ensure_bucket()
        except LorawrightError as error:
            raise StackError(
                f"The bucket {settings.s3_bucket} cannot be used: {error.detail}"
            ) from error
