"""The trainer as a child process: started by accelerate, heard over a pipe, ended in good order.

A crash, an out-of-memory or a hang of the trainer never takes the worker along, and the GPU is
clean afterwards.
"""

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from app.database import JsonObject
from app.settings import REPOSITORY

trainer_log = logging.getLogger("worker.trainer")

# Sent as an event of its own type when the trainer's output has ended.
EVENT_POLL_SECONDS = 0.2
# Added to each event when it comes, as whoever handles them may be late.
HEARD_AT = "heard_at"
LOG_TAIL_CHARS = 2000
LOG_LINE_CHARS = 2000
STOPPED_EXIT_CODE = 75


class TrainerProcess:
    """A running trainer. Its standard input stays open: when this process dies, it ends too."""

    def __init__(self, command: list[str], log_path: Path) -> None:
        self._log_path = log_path
        self._log = log_path.open("wb")
        self._told_log = log_path.open(errors="replace", newline="\n")
        self._told_part = ""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=REPOSITORY,
            # Its own group, so that launcher and trainer are signalled together.
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None, "stdout is a pipe"
        self._events: queue.Queue[JsonObject | None] = queue.Queue()
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), name="trainer-output", daemon=True
        )
        self._reader.start()

    def events(self, on_wait: Callable[[], None]) -> Iterator[JsonObject]:
        """Every event in order, until the output ends; `on_wait` is called while waiting."""
        while True:
            on_wait()
            self._tell_log()
            try:
                event = self._events.get(timeout=EVENT_POLL_SECONDS)
            except queue.Empty:
                continue
            if event is None:
                self._tell_log()
                return
            yield event

    def request_stop(self) -> None:
        """Ask the trainer to save its state and leave."""
        self._signal(signal.SIGTERM)

    def wait(self, timeout_seconds: float) -> int:
        """The exit code; a trainer that does not leave in time is killed."""
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def kill(self) -> None:
        """End the whole group at once."""
        self._signal(signal.SIGKILL)

    def log_tail(self) -> str:
        """The end of what the trainer wrote beside its events, for the operators' log."""
        self._log.flush()
        text = self._log_path.read_text(errors="replace")
        return text[-LOG_TAIL_CHARS:]

    def close(self) -> None:
        """Leave no process and no file open behind."""
        if self._process.poll() is None:
            self.kill()
            self._process.wait()
        # Launcher gone, the trainer itself might linger in the group.
        self.kill()
        self._reader.join(timeout=5)
        for pipe in (self._process.stdin, self._process.stdout, self._log, self._told_log):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _tell_log(self) -> None:
        """Repeat what the trainer has written beside its events, so that it has the job's ids.

        A file is between: a trainer must never wait for who reads, nor die with him.
        """
        told = self._told_log.read()
        *lines, self._told_part = (self._told_part + told).split("\n")
        for line in lines:
            if line.strip():
                trainer_log.info("%s", line.rstrip()[:LOG_LINE_CHARS])

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and "type" in event:
                    event[HEARD_AT] = time.time_ns()
                    self._events.put(event)
        self._events.put(None)


@contextmanager
def trainer(
    spec_path: Path,
    output: Path,
    cache: Path,
    *,
    state_every_seconds: float,
    cpu_threads: int,
    processes: int,
    resume: bool,
) -> Iterator[TrainerProcess]:
    """Start the trainer on a spec; whatever happens, it is gone when the block ends."""
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        f"--num_processes={processes}",
        # Its name for several processes, whatever the devices are.
        *(["--multi_gpu"] if processes > 1 else []),
        "--num_machines=1",
        "--mixed_precision=no",
        f"--num_cpu_threads_per_process={cpu_threads}",
        "--dynamo_backend=no",
        "--module",
        "worker.ml.training",
        str(spec_path),
        f"--output={output}",
        f"--cache={cache}",
        f"--state-every-seconds={state_every_seconds:g}",
        "--stop-on-stdin-eof",
    ]
    if resume:
        command.append("--resume")
    output.mkdir(parents=True, exist_ok=True)
    process = TrainerProcess(command, output.parent / "trainer.log")
    try:
        yield process
    finally:
        process.close()


def give_up_after(seconds: float) -> Callable[[], bool]:
    """A clock that says when so many seconds have passed."""
    ends = time.monotonic() + seconds
    return lambda: time.monotonic() >= ends


def heard_at(event: JsonObject) -> int:
    """When an event came, by the wall clock in nanoseconds."""
    return int(event.get(HEARD_AT) or time.time_ns())
