"""One child process: started on a leash, watched until ready, stopped with all it started."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from app.cli.stack import leash
from app.cli.stack.errors import ChildFailed, StopAsked
from app.cli.stack.state import ProcessRecord

POLL_SECONDS = 0.05
TAIL_LINES = 15
LOG_ROTATE_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True)
class ChildSpec:
    """What to run and how to end it.

    Attributes:
        command: the program's absolute path, then its arguments.
        environment: everything the child sees.
        ready: true once it really serves; asked again and again until `ready_seconds` are over.
        stop_signal: asks for an orderly end; the child has `stop_seconds` before it is killed.
        user: uid and gid to run as, or None to stay who we are.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    # One that has ended is noticed at once; this is for a machine that is busy with much else.
    ready_seconds: float = 90.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    user: tuple[int, int] | None = None


@dataclass
class Child:
    """A running (or ended) child."""

    spec: ChildSpec
    log_path: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _asked: bool = field(default=False, init=False)

    @property
    def name(self) -> str:
        """What it is called in messages and in the name of its log."""
        return self.spec.name

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            RuntimeError: it was never started.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process.pid

    def start(self) -> None:
        """Start it without waiting. The calling thread must outlive it: the leash is tied to it."""
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_ROTATE_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        self._asked = False
        user = "-" if self.spec.user is None else "{}:{}".format(*self.spec.user)
        death_signal = str(int(self.spec.stop_signal))
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *[sys.executable, "-I", "-S", leash.__file__],
                    *[str(os.getpid()), death_signal, user],
                    *self.spec.command,
                ],
                env=dict(self.spec.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal reaches the supervisor alone, which stops us in order.
                start_new_session=True,
            )

    def record(self) -> ProcessRecord | None:
        """How it can be recognised later, or None where it has ended."""
        return ProcessRecord.of(self.pid)

    def is_alive(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def wait_ready(self, stop: threading.Event | None = None) -> None:
        """Return once it serves.

        Raises:
            ChildFailed: it ended, or `ready_seconds` went by.
            StopAsked: `stop` was set first.
        """
        deadline = time.monotonic() + self.spec.ready_seconds
        while not self.spec.ready():
            if not self.is_alive():
                raise self.failure(f"ended with status {self._status()} before it was ready")
            if stop is not None and stop.is_set():
                raise StopAsked(f"stopped while {self.name} was starting")
            if time.monotonic() > deadline:
                raise self.failure(f"was not ready within {self.spec.ready_seconds:.0f} s")
            time.sleep(POLL_SECONDS)

    def failure(self, what: str) -> ChildFailed:
        """An error that says `what` and shows the end of the log."""
        return ChildFailed(self.name, what, self.log_path, self._log_tail())

    def ended(self) -> ChildFailed:
        """An error that says that it has ended, and how."""
        return self.failure(f"ended with status {self._status()}")

    def ask_to_stop(self) -> None:
        """Send the stop signal, once, without waiting."""
        # A second one would tell some servers to hurry.
        if self._process is not None and not self._asked and self._process.poll() is None:
            self._asked = True
            self._process.send_signal(self.spec.stop_signal)

    def kill(self) -> None:
        """End it at once, without asking or waiting."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def stop(self) -> None:
        """Ask it to end, and kill what does not; returns when it and all it started are gone."""
        if self._process is None:
            return
        descendants = self._descendants()
        self.ask_to_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.spec.stop_seconds)
        self.kill()
        self._process.wait()
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(descendants, timeout=5)
        self._process = None

    def _descendants(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _status(self) -> str:
        code = self._process.returncode if self._process is not None else None
        if code is not None and code < 0:
            return f"{code} ({signal.Signals(-code).name})"
        return str(code)

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(
                self.log_path.read_text(errors="replace").rstrip().splitlines()[-TAIL_LINES:]
            )
        return ""
