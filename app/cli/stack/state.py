"""`stack.json`: what one folder's stack is and where it runs; and the lock that admits only one.

The file is readable by its owner alone, since it holds the servers' passwords and the first admin
key. Ports and secrets are kept from the first start on; `pid` and `processes` only while it runs.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, ValidationError

from app.cli.stack.errors import AlreadyRunning, StackError

if TYPE_CHECKING:
    import psutil

STATE_FILE = "stack.json"
LOCK_FILE = "lock"


def _secret() -> str:
    # Hex, because it travels inside URLs and configuration files.
    return secrets.token_hex(20)


class Secrets(BaseModel):
    """The servers' passwords, random for each folder."""

    postgres_password: str = Field(default_factory=_secret)
    redis_password: str = Field(default_factory=_secret)
    s3_access_key_id: str = Field(default_factory=lambda: "lw" + secrets.token_hex(9))
    s3_secret_access_key: str = Field(default_factory=_secret)
    session_secret: str = Field(default_factory=_secret)


class ProcessRecord(BaseModel):
    """A process as it can be recognised later: ids are reused, an id with its start time is not."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> "ProcessRecord | None":
        """The record of a living process, or None."""
        # psutil comes with the embedded servers; reading the file does without.
        import psutil

        try:
            return cls(pid=pid, created=psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def process(self) -> "psutil.Process | None":
        """The very process, if it still lives."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


class StackState(BaseModel):
    """The file's content."""

    pid: int | None = None
    ready: bool = False
    url: str | None = None
    api_key: str | None = None
    # The database that `api_key` was made in.
    api_key_database_url: str | None = None
    ports: dict[str, int] = Field(default_factory=dict)
    secrets: Secrets = Field(default_factory=Secrets)
    database_url: str | None = None
    redis_url: str | None = None
    s3_endpoint_url: str | None = None
    processes: dict[str, ProcessRecord] = Field(default_factory=dict)


def load_state(data_dir: Path) -> StackState | None:
    """The folder's state, or None where no stack was ever started.

    Raises:
        StackError: the file cannot be read or understood.
    """
    path = data_dir / STATE_FILE
    try:
        return StackState.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StackError(f"{path} cannot be read: {error}") from error


def save_state(data_dir: Path, state: StackState) -> None:
    """Replace the file at once, readable by its owner alone."""
    path = data_dir / STATE_FILE
    partial = path.with_suffix(".part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(state.model_dump_json(indent=2) + "\n")
    partial.replace(path)


@contextlib.contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the folder for the length of the block; the lock vanishes with its process.

    Raises:
        AlreadyRunning: another process holds it.
    """
    with (data_dir / LOCK_FILE).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = load_state(data_dir)
            where = f" at {state.url}" if state is not None and state.url else ""
            who = f" (process {state.pid})" if state is not None and state.pid else ""
            raise AlreadyRunning(
                f"A stack is already running on {data_dir}{where}{who}; "
                "stop it first, or choose another folder with --data-dir"
            ) from None
        yield


def is_running(data_dir: Path) -> bool:
    """Whether some process holds the folder now."""
    try:
        with (data_dir / LOCK_FILE).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
