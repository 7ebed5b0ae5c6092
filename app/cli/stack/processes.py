"""The service's own processes on one machine: the API, two workers, and beat."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
from celery import Celery
from kombu.exceptions import OperationalError
from redis import RedisError

from app.cli.stack.child import Child, ChildSpec

# Two workers, so that an upload or a conversion never waits for a training to end.
WORKER_QUEUES = {
    "worker": ("caption", "train", "generate"),
    "worker-cpu": ("ingest", "maintenance"),
}
METRICS_PORT = "LORAWRIGHT_METRICS_PORT"
# Importing torch and diffusers from a cold disk is slow.
WORKER_READY_SECONDS = 180.0
# A stopping worker may finish a picture or save a training's state.
WORKER_STOP_SECONDS = 30.0


def process_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What the service's processes see: ours, and `variables` on top."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", **variables}


def api_child(host: str, port: int, variables: Mapping[str, str], logs: Path) -> Child:
    """The HTTP API; ready once /readyz says that all it needs answers."""
    # 0.0.0.0 and :: are listened on, not connected to.
    reached = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    address = f"http://{f'[{reached}]' if ':' in reached else reached}:{port}/readyz"
    return Child(
        ChildSpec(
            name="api",
            command=[
                *[sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory"],
                *["--host", host, "--port", str(port), "--no-access-log"],
                # Open event streams would otherwise hold the stop up for ever.
                *["--timeout-graceful-shutdown", "3"],
            ],
            environment=process_environment(variables),
            ready=lambda: _is_ready(address),
        ),
        logs / "api.log",
    )


def worker_children(redis_url: str, variables: Mapping[str, str], logs: Path) -> list[Child]:
    """A Celery worker for what needs a GPU and one for the rest."""
    return [_worker_child(name, redis_url, variables, logs) for name in WORKER_QUEUES]


def _worker_child(name: str, redis_url: str, variables: Mapping[str, str], logs: Path) -> Child:
    """One worker; ready once it answers over Redis."""
    host = f"{name}@localhost"
    return Child(
        ChildSpec(
            name=name,
            command=[
                *[sys.executable, "-m", "celery", "-A", "worker.main:celery_app", "worker"],
                *["-Q", ",".join(WORKER_QUEUES[name]), "--pool", "prefork", "--concurrency", "1"],
                *["--hostname", host, "--without-gossip", "--without-mingle"],
                *["--loglevel", "INFO"],
            ],
            environment=process_environment({**variables, **_metrics_port(name, variables)}),
            ready=lambda: _worker_answers(redis_url, host),
            ready_seconds=WORKER_READY_SECONDS,
            stop_seconds=WORKER_STOP_SECONDS,
        ),
        logs / f"{name}.log",
    )


def _metrics_port(name: str, variables: Mapping[str, str]) -> dict[str, str]:
    """A port of its own for each worker of the machine: the one that is set, and those after it."""
    first = int(variables.get(METRICS_PORT, "0"))
    return {METRICS_PORT: str(first + list(WORKER_QUEUES).index(name))} if first else {}


def beat_child(data_dir: Path, variables: Mapping[str, str], logs: Path) -> Child:
    """Celery's clock, which asks for a sweep every few seconds; ready once it has a schedule."""
    folder = data_dir / "beat"
    folder.mkdir(mode=0o700, exist_ok=True)
    # The schedule holds nothing worth keeping, and one cut short by a crash cannot be read.
    for old in folder.glob("schedule*"):
        old.unlink()
    return Child(
        ChildSpec(
            name="beat",
            command=[
                *[sys.executable, "-m", "celery", "-A", "app.broker:celery_app", "beat"],
                *["--schedule", str(folder / "schedule"), "--pidfile", ""],
                *["--loglevel", "INFO"],
            ],
            environment=process_environment(variables),
            ready=lambda: any(folder.glob("schedule*")),
        ),
        logs / "beat.log",
    )


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _worker_answers(redis_url: str, host: str) -> bool:
    # An application of our own, since the service's reads its address from this process's settings.
    with Celery("probe", broker=redis_url) as probe:
        try:
            return bool(probe.control.ping(destination=[host], timeout=0.5))
        except (OperationalError, RedisError, OSError):
            return False
