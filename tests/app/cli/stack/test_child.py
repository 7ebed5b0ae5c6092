"""Children: what they leave in words when they fail, and in processes when they end."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from app.cli.stack.child import Child, ChildSpec
from app.cli.stack.errors import ChildFailed


def _python(code: str, tmp_path: Path, *, ready_file: Path | None = None) -> Child:
    spec = ChildSpec(
        name="thing",
        command=[sys.executable, "-c", code],
        environment=os.environ,
        ready=lambda: ready_file is not None and ready_file.exists(),
        ready_seconds=20,
        stop_seconds=0.5,
    )
    return Child(spec, tmp_path / "thing.log")


def test_a_child_that_ends_early_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = _python("print('no such table'); raise SystemExit(3)", tmp_path)
    child.start()
    with pytest.raises(
        ChildFailed, match=r"thing ended with status 3 before.*\n.*\n  no such table"
    ):
        child.wait_ready()
    child.stop()


def test_a_child_that_ignores_the_signal_is_killed_with_all_it_started(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = f"""
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
# In a session of its own, where a signal to the group does not reach it.
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
pathlib.Path({str(ready)!r}).touch()
time.sleep(600)
"""
    child = _python(code, tmp_path, ready_file=ready)
    child.start()
    child.wait_ready()
    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    assert len(family) == 2
    child.stop()
    assert not any(process.is_running() for process in family)
    assert not child.is_alive()
