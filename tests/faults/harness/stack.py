"""The service on one machine, to be broken: servers, a proxy before S3, two GPU workers, beat."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil

from app.cli.embedded import EmbeddedServers
from app.cli.stack.child import Child, ChildSpec
from app.cli.stack.errors import ChildFailed
from app.cli.stack.processes import beat_child, process_environment, worker_children
from tests.faults.harness.proxy import S3Proxy

GPU_WORKERS = ("gpu-1", "gpu-2")
LEASE_SECONDS = 4.0
MAX_ATTEMPTS = 100
VARIABLES = {
    "LORAWRIGHT_LOG_LEVEL": "info",
    "LORAWRIGHT_SWEEP_SECONDS": "1",
    "LORAWRIGHT_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
    "LORAWRIGHT_HEARTBEAT_SECONDS": "1",
    "LORAWRIGHT_RETRY_BACKOFF_SECONDS": "0.02",
    "LORAWRIGHT_RETRY_BACKOFF_MOST_SECONDS": "2",
    # No job may end for having been killed too often: that none is lost is what is shown.
    "LORAWRIGHT_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "LORAWRIGHT_TRAINING_STATE_SECONDS": "0.2",
    "LORAWRIGHT_MAX_RUNNING_PER_ACCOUNT": "100",
    "LORAWRIGHT_DEFAULT_BASE_MODEL": "emoji-64",
    "LORAWRIGHT_DEFAULT_CAPTIONER": "emoji-blip",
    # Two workers share two cores.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}


class Stack:
    """Servers that run already, and the service's processes over them."""

    def __init__(self, servers: EmbeddedServers) -> None:
        assert servers.s3 is not None, "the suite breaks its own servers, not others'"
        self.servers = servers
        self.proxy = S3Proxy(servers.state.ports["s3"])
        self.workers: dict[str, Child] = {}
        self._others: list[Child] = []
        # Pool children and trainers of workers that were killed; they must end by themselves.
        self._bereft: list[psutil.Process] = []

    def start(self) -> None:
        """Start everything and wait until it serves."""
        self.proxy.__enter__()
        logs = self.servers.data_dir / "logs"
        logs.mkdir(exist_ok=True)
        variables = {
            **self.servers.environment(),
            **VARIABLES,
            "LORAWRIGHT_S3_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}",
        }
        of_gpu, of_cpu = worker_children(variables["LORAWRIGHT_REDIS_URL"], variables, logs)
        for name in GPU_WORKERS:
            # Folders of their own: what one machine has on its disk another has not.
            own = variables | {"LORAWRIGHT_WORK_DIR": str(self.work_dir(name))}
            self.workers[name] = Child(_named(of_gpu.spec, name, own), logs / f"{name}.log")
        self._others = [of_cpu, beat_child(self.servers.data_dir, variables, logs)]
        for child in (*self.workers.values(), *self._others):
            child.start()
        of_cpu.wait_ready()

    def stop(self) -> None:
        """End everything but the servers."""
        for worker in self.workers.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                _signal_all(self.family(worker), signal.SIGCONT)
        for child in (*self.workers.values(), *self._others):
            child.ask_to_stop()
        for child in (*self.workers.values(), *self._others):
            child.stop()
        _signal_all([p for p in self._bereft if p.is_running()], signal.SIGKILL)
        self.proxy.__exit__()

    def work_dir(self, worker: str) -> Path:
        """Where a worker keeps jobs' files."""
        return self.servers.data_dir / f"work-{worker}"

    def attempt_folders(self) -> list[Path]:
        """The folders of attempts that lie on the workers' disks."""
        return [
            folder
            for name in self.workers
            for folder in self.work_dir(name).glob("*_*-*")
            if folder.is_dir()
        ]

    def tend(self) -> None:
        """Start workers and other processes that have ended; to be called again and again."""
        for child in (*self.workers.values(), *self._others):
            if not child.is_alive():
                child.start()

    def worker_of(self, pid: int) -> Child | None:
        """The worker whose pool has this child."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parents = {parent.pid for parent in psutil.Process(pid).parents()}
            for worker in self.workers.values():
                if worker.is_alive() and worker.pid in parents:
                    return worker
        return None

    def family(self, worker: Child) -> list[psutil.Process]:
        """A worker, its pool's child, launcher and trainer."""
        if not worker.is_alive():
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(worker.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def bereave(self, pid: int) -> None:
        """A process is about to be killed: what it has started must end by itself."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._bereft += psutil.Process(pid).children(recursive=True)

    def renew_child(self, name: str) -> None:
        """Have a worker's pool fork a new child, which has loaded nothing; wait for it."""
        worker = self.workers[name]
        before = psutil.Process(worker.pid).children()
        for child in before:
            child.kill()
        while not set(psutil.Process(worker.pid).children()) - set(before):
            time.sleep(0.05)

    @contextlib.contextmanager
    def all_workers_frozen(self, but: Child | None = None) -> Iterator[None]:
        """For a block, shorter than a lease, no worker does anything."""
        families = [self.family(worker) for worker in self.workers.values() if worker is not but]
        for family in families:
            _signal_all(family, signal.SIGSTOP)
        try:
            yield
        finally:
            for family in families:
                _signal_all(family, signal.SIGCONT)

    def kill_parent(self, worker: Child) -> None:
        """SIGKILL a worker alone; what it leaves must end by itself."""
        family = self.family(worker)
        worker.kill()
        self._bereft += family[1:]

    def leftover_processes(self) -> list[psutil.Process]:
        """Processes of killed workers that still run."""
        self._bereft = [process for process in self._bereft if process.is_running()]
        return list(self._bereft)

    # --- the servers ---------------------------------------------------------------------------

    def restart_redis_empty(self) -> float:
        """Kill Redis, forget all it kept, start it; the time (monotonic) at which it was back."""
        redis = self.servers.redis
        assert redis is not None
        redis.kill()
        redis.stop()
        folder = self.servers.data_dir / "redis"
        for path in folder.iterdir():
            if path.name != "redis.conf":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        redis.start()
        redis.wait_ready()
        return time.monotonic()

    def restart_postgres(self, *, kill: bool) -> None:
        """Stop Postgres at once (`kill`) or in its fast way, and start it."""
        postgres = self.servers.postgres
        assert postgres is not None
        if kill:
            family = psutil.Process(postgres.pid).children(recursive=True)
            postgres.kill()
            # Those that serve connections see that their postmaster is gone, and end.
            psutil.wait_procs(family, timeout=10)
        postgres.stop()
        for _ in range(5):
            postgres.start()
            try:
                postgres.wait_ready()
                return
            except ChildFailed:
                # The last of the old server's processes may hold its memory a moment longer.
                time.sleep(0.5)
        raise AssertionError("Postgres does not come back")


def is_trainer(process: psutil.Process) -> bool:
    """Whether it is the trainer itself, not its launcher."""
    with contextlib.suppress(psutil.NoSuchProcess):
        line = " ".join(process.cmdline())
        return "worker.ml.training" in line and "accelerate.commands" not in line
    return False


def trainer_under(pid: int) -> psutil.Process | None:
    """The trainer that a pool child has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            if is_trainer(process):
                return process
    return None


@contextlib.contextmanager
def running_stack(servers: EmbeddedServers) -> Iterator[Stack]:
    """A stack for a block."""
    stack = Stack(servers)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


def _named(spec: ChildSpec, name: str, variables: Mapping[str, str]) -> ChildSpec:
    """A worker's spec under another name."""
    command = [f"{name}@localhost" if part == "worker@localhost" else part for part in spec.command]
    assert command != spec.command
    return replace(spec, name=name, command=command, environment=process_environment(variables))


def _signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            os.kill(process.pid, number)
