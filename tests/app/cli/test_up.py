"""`lorawright up`, whole: a stack that serves, mends itself, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from app.cli.stack.ports import free_port
from app.cli.stack.state import StackState, is_running, load_state

# Importing torch on two busy cores takes a while.
UP_SECONDS = 200.0
# The servers that the other tests use are none of this stack's business.
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith("LORAWRIGHT_")
}


def _up(data_dir: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "app.cli.main", "up", "--data-dir", str(data_dir), *options]


@dataclass
class Running:
    """A supervisor and what it has said so far."""

    process: "subprocess.Popen[str]"
    data_dir: Path
    port: int

    def read_until(self, wanted: Callable[[str], bool]) -> str:
        """Its next line that is wanted."""
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if wanted(line):
                return line
        raise AssertionError(f"the supervisor ended; it said:\n{said}")

    def state(self) -> StackState:
        """stack.json as it is now."""
        state = load_state(self.data_dir)
        assert state is not None
        return state

    def everything(self) -> list[psutil.Process]:
        """Every process that the supervisor has started, however deep."""
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def stack() -> Iterator[Running]:
    # Not pytest's own folder; see the fixture stack_dir.
    with tempfile.TemporaryDirectory(prefix="lorawright-up-") as folder:
        yield from _run_stack(Path(folder) / "stack")


def _run_stack(data_dir: Path) -> Iterator[Running]:
    port = free_port()
    process = subprocess.Popen(
        _up(data_dir, "--port", str(port)),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        running = Running(process, data_dir, port)
        try:
            running.read_until(lambda line: "The stack is up" in line)
            yield running
        finally:
            process.terminate()


def test_the_first_key_in_stack_json_opens_the_api(stack: Running) -> None:
    state = stack.state()
    assert state.ready
    assert set(state.processes) == {
        "postgres",
        "redis",
        "s3",
        "api",
        "worker",
        "worker-cpu",
        "beat",
    }
    headers = {"Authorization": f"Bearer {state.api_key}"}
    assert httpx.get(f"{state.url}/v1/jobs", headers=headers).json()["data"] == []
    assert httpx.get(f"{state.url}/v1/jobs").status_code == 401


def test_a_second_up_on_the_same_folder_is_refused(stack: Running) -> None:
    second = subprocess.run(
        _up(stack.data_dir, "--port", str(free_port())),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert f"already running on {stack.data_dir} at {stack.state().url}" in second.stderr
    assert is_running(stack.data_dir)


def test_a_taken_api_port_names_the_port_and_the_option(stack: Running, tmp_path: Path) -> None:
    other = subprocess.run(
        _up(tmp_path / "other", "--port", str(stack.port)),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 1
    assert f"api cannot start: port {stack.port} is taken" in other.stderr
    assert "--port" in other.stderr


def test_commands_find_the_stack_by_its_folder(stack: Running) -> None:
    command = [sys.executable, "-m", "app.cli.main", "jobs", "--data-dir", str(stack.data_dir)]
    listed = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (listed.returncode, listed.stdout) == (0, "No jobs.\n"), listed.stderr


def test_an_api_that_ends_is_reported_and_started_again(stack: Running) -> None:
    before = stack.state().processes["api"]
    os.kill(before.pid, signal.SIGKILL)
    assert "SIGKILL" in stack.read_until(lambda line: line.startswith("api ended"))
    stack.read_until(lambda line: line.startswith("api is started again (1 of 3)"))
    assert stack.state().processes["api"].pid != before.pid


# The last in the file, since it ends what the others use.
def test_sigterm_ends_the_stack_and_leaves_no_process_behind(stack: Running) -> None:
    family = stack.everything()
    assert len(family) >= 6
    stack.process.terminate()
    stack.read_until(lambda line: line.startswith("Stopped."))
    assert stack.process.wait(30) == 0
    assert [process for process in family if process.is_running()] == []
    state = stack.state()
    assert (state.pid, state.ready, state.processes) == (None, False, {})
    with socket.create_server(("127.0.0.1", stack.port)):
        pass
