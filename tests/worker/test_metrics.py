"""A worker's own figures: where they are served, and what is known of its GPUs."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from app.cli.stack.ports import LOOPBACK, free_port
from app.cli.stack.processes import worker_children
from app.settings import get_settings
from worker import alive, gpu, metrics


@pytest.fixture(autouse=True)
def settings_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("LORAWRIGHT_METRICS_PORT", str(free_port()))
    monkeypatch.setenv("LORAWRIGHT_WORK_DIR", str(tmp_path))
    get_settings.cache_clear()
    yield
    monkeypatch.undo()
    get_settings.cache_clear()


def test_a_port_that_stays_taken_stops_the_worker_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics.check_port()
    monkeypatch.setattr(metrics, "PORT_SECONDS", 0.1)
    monkeypatch.setattr(metrics, "AGAIN_SECONDS", 0.01)
    port = get_settings().metrics_port
    with socket.create_server((LOOPBACK, port)), pytest.raises(SystemExit) as stopped:
        metrics.check_port()
    assert f"LORAWRIGHT_METRICS_PORT: 127.0.0.1:{port} cannot be had" in str(stopped.value)
    assert "a port of its own" in str(stopped.value)


def test_a_child_that_follows_another_waits_for_its_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "AGAIN_SECONDS", 0.01)
    port = get_settings().metrics_port
    before = socket.create_server((LOOPBACK, port))
    metrics.serve()
    time.sleep(0.05)
    before.close()
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        try:
            told = httpx.get(f"http://{LOOPBACK}:{port}/metrics").text
            break
        except httpx.TransportError:
            time.sleep(0.05)
    assert "lorawright_worker_disk_free_bytes" in told


def test_without_a_port_nothing_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAWRIGHT_METRICS_PORT", "0")
    get_settings.cache_clear()
    before = threading.active_count()
    metrics.check_port()
    metrics.serve()
    assert threading.active_count() == before


def test_two_workers_of_one_machine_have_two_ports(tmp_path: Path) -> None:
    variables = {"LORAWRIGHT_METRICS_PORT": "9101"}
    children = worker_children("redis://localhost:1/0", variables, tmp_path)
    ports = [child.spec.environment["LORAWRIGHT_METRICS_PORT"] for child in children]
    assert ports == ["9101", "9102"]


class _Driver(SimpleNamespace):
    """What pynvml is to us: two cards, of which the second is a slice that knows no utilisation."""

    class NVMLError(Exception):
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if uuid != "GPU-second":
            raise self.NVMLError
        return 1

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(used=10 + handle, total=100)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        if handle == 1:
            raise self.NVMLError
        return SimpleNamespace(gpu=75)


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, [gpu.Gpu("0", 10, 100, 0.75), gpu.Gpu("1", 11, 100, None)]),
        ("1", [gpu.Gpu("1", 11, 100, None)]),
        ("GPU-second, GPU-gone", [gpu.Gpu("GPU-second", 11, 100, None)]),
        ("", []),
        ("-1", []),
    ],
)
def test_gpus_are_those_that_the_worker_may_use(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[gpu.Gpu]
) -> None:
    monkeypatch.setattr(gpu, "_nvml", _Driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu.read() == found


def test_a_worker_is_alive_while_it_beats_and_its_process_is_there() -> None:
    assert "no worker process has reported" in (alive.trouble() or "")
    alive.beat()
    assert alive.trouble() is None
    folder = get_settings().work_dir / alive.FOLDER
    [mine] = folder.iterdir()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    # One that was killed is forgotten, as its place has been taken.
    mine.with_name(f"{socket.gethostname()}:{gone.pid}").touch()
    mine.with_name("another-host:1").touch()
    assert alive.trouble() is None
    assert {path.name for path in folder.iterdir()} == {mine.name, "another-host:1"}
    long_ago = time.time() - 3600
    os.utime(mine, (long_ago, long_ago))
    assert f"{mine.name} for 3600 s" in (alive.trouble() or "")
    alive.end()
    assert "no worker process has reported" in (alive.trouble() or "")
