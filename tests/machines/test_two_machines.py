"""Two machines share nothing but Postgres, Redis and storage; one dies or is cut off in the middle.

The other goes on from the state that the first had sent to storage, and publishes the same bytes.
"""

import io
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select, text
from starlette.testclient import TestClient

from app import broker
from app.accounts import keys
from app.accounts import service as accounts
from app.cli.embedded import EmbeddedServers
from app.cli.stack.child import Child
from app.cli.stack.processes import process_environment, worker_children
from app.database import get_engine, transaction
from app.jobs.models import TERMINAL, Job, JobEvent
from app.loras.models import Lora
from app.storage import get_store
from app.tables import metadata
from app.trainings.models import Training
from tests.machines.forward import Forward
from tests.machines.network import Machine, network
from worker import chores

PICTURES = Path(__file__).parents[2] / "examples" / "ink-style"
STEPS = 40
VARIABLES = {
    "LORAWRIGHT_LOG_LEVEL": "info",
    "LORAWRIGHT_LEASE_SECONDS": "6",
    "LORAWRIGHT_HEARTBEAT_SECONDS": "1",
    "LORAWRIGHT_RETRY_BACKOFF_SECONDS": "0.02",
    "LORAWRIGHT_TRAINING_STATE_SECONDS": "0.2",
    "LORAWRIGHT_DEFAULT_BASE_MODEL": "emoji-64",
    # Two workers share two cores.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
}
# Long enough for a machine that is busy with other things.
PATIENCE_SECONDS = 400.0

pytestmark = pytest.mark.timeout(1200)


@dataclass
class Site:
    """Two machines with a worker each, and the service as a customer sees it."""

    client: TestClient
    data_dir: Path
    workers: dict[str, Child]
    machines: dict[str, Machine]
    dataset: str = ""
    undisturbed: bytes = b""
    names: list[str] = field(default_factory=list)

    def folder(self, name: str) -> Path:
        """What a machine has on its disk."""
        return self.data_dir / f"work-{name}"

    def start(self, name: str) -> None:
        """Start a machine's worker with an empty disk."""
        shutil.rmtree(self.folder(name), ignore_errors=True)
        self.machines[name].plug_in()
        self.workers[name].start()

    def kill(self, name: str) -> None:
        """SIGKILL all that runs on a machine, and pull its cable out."""
        for process in self.family(name):
            process.kill()
        self.machines[name].pull_out()
        self.workers[name].stop()

    def family(self, name: str) -> list[psutil.Process]:
        """A machine's worker, its child, launcher and trainer."""
        parent = psutil.Process(self.workers[name].pid)
        return [parent, *parent.children(recursive=True)]

    def train(self) -> str:
        """Submit the one training of this file; its id."""
        answer = self.client.post(
            "/v1/trainings",
            json={
                "dataset": self.dataset,
                "name": "short",
                "params": {
                    "seed": 7,
                    "max_steps": STEPS,
                    "rank": 2,
                    "alpha": 1,
                    "batch_size": 2,
                    "resolution": 64,
                },
            },
        )
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    def wait(self, what: str, until: Callable[[], Any]) -> Any:
        """Sweep, as some machine always does, until something holds; its value."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < ends:
            chores.sweep()
            if found := until():
                return found
            time.sleep(0.1)
        logs = [worker.log_path for worker in self.workers.values() if worker.log_path.exists()]
        told = "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in logs)
        raise AssertionError(f"{what}: not within {PATIENCE_SECONDS:g} s\n{told}")

    def holder_with_state(self, job_id: str) -> str:
        """Wait until a machine that trains has sent a state; its name."""

        def holder() -> str | None:
            job, training = row(job_id), state(job_id)
            assert job.status not in TERMINAL, f"it {job.status} before it was disturbed"
            if job.status != "running" or training is None:
                return None
            return (job.worker_id or "").partition(":")[0]

        name: str = self.wait("a state in storage", holder)
        return name

    def ended(self, job_id: str) -> Job:
        """Wait until the training has succeeded."""
        job: Job = self.wait(
            "the end", lambda: found if (found := row(job_id)).status in TERMINAL else None
        )
        assert job.status == "succeeded", (job.status, job.error_message)
        return job


def row(job_id: str) -> Job:
    with transaction() as session:
        return session.get_one(Job, job_id)


def state(job_id: str) -> dict[str, Any] | None:
    with transaction() as session:
        return session.get_one(Training, job_id).state


def story(job_id: str) -> list[JobEvent]:
    with transaction() as session:
        return list(
            session.scalars(
                select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)
            )
        )


def first_step_of_attempt(job_id: str, attempt: int) -> int:
    """The first step that an attempt told of; the one after its state, if it went on from one."""
    events = story(job_id)
    began = next(e.seq for e in events if e.payload.get("attempt") == attempt)
    told = [e for e in events if e.seq > began and e.type == "metrics"]
    return int(told[0].payload["metrics"][0]["step"])


def published(job_id: str) -> bytes:
    with transaction() as session:
        key = session.scalars(select(Lora.object_key).where(Lora.training_id == job_id)).one()
    return get_store().get_bytes(key)


@pytest.fixture(scope="module")
def site(servers: EmbeddedServers) -> Iterator[Site]:
    """The first machine has trained once in peace; the second one's worker is not started."""
    from app.main import create_app

    with get_engine().begin() as connection:
        names = ", ".join(table.name for table in metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {names} CASCADE"))
    broker.get_redis().flushdb()
    with transaction() as session:
        account = accounts.create_account(session, "customer")
        _, secret = keys.create_key(session, account.id, "machines")
    logs = servers.data_dir / "logs"
    logs.mkdir(exist_ok=True)
    with network(2) as net, Forward(net.address, list(servers.state.ports.values())):
        variables = {
            name: value.replace("127.0.0.1", net.address)
            for name, value in (servers.environment() | VARIABLES).items()
        }
        of_gpu, _ = worker_children(variables["LORAWRIGHT_REDIS_URL"], variables, logs)
        machines = {machine.name: machine for machine in net.machines}
        workers = {}
        with (
            pytest.MonkeyPatch.context() as patch,
            TestClient(create_app(), headers={"Authorization": f"Bearer {secret}"}) as client,
        ):
            # The sweeps of this process, by the same rules.
            for name, value in VARIABLES.items():
                patch.setenv(name, value)
            from app.settings import get_settings

            get_settings.cache_clear()
            here = Site(client, servers.data_dir, workers, machines, names=list(machines))
            for name, machine in machines.items():
                own = variables | {"LORAWRIGHT_WORK_DIR": str(here.folder(name))}
                command = [
                    f"gpu@{name}" if part == "worker@localhost" else part
                    for part in of_gpu.spec.command
                ]
                spec = replace(
                    of_gpu.spec,
                    name=name,
                    command=machine.command(command),
                    environment=process_environment(own),
                )
                workers[name] = Child(spec, logs / f"{name}.log")
            try:
                here.dataset = upload(client)
                here.start(here.names[0])
                here.undisturbed = published(here.ended(here.train()).id)
                yield here
            finally:
                for name, worker in workers.items():
                    machines[name].plug_in()
                    worker.stop()
        get_settings.cache_clear()


def upload(client: TestClient) -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(PICTURES.glob("*.png"))[:6]:
            archive.write(path, path.name)
            archive.writestr(path.with_suffix(".txt").name, path.stem.replace("-", " "))
    body = {"name": "ink", "task": "style", "trigger_word": "inkstyle"}
    dataset: str = client.post("/v1/datasets", json=body).json()["id"]
    answer = client.post(
        f"/v1/datasets/{dataset}/images",
        files=[("files", ("ink.zip", buffer.getvalue(), "application/zip"))],
    )
    assert answer.status_code == 201, answer.text
    return dataset


def test_a_training_whose_machine_dies_is_finished_by_another_from_storage(site: Site) -> None:
    job_id = site.train()
    first, second = site.names
    assert site.holder_with_state(job_id) == first
    site.kill(first)
    left, lost = state(job_id), row(job_id)
    assert left is not None
    assert left["step"] > 0
    assert (lost.status, (lost.worker_id or "").partition(":")[0]) == ("running", first)
    # Its disk is empty: what it goes on from can only come from storage.
    site.start(second)
    job = site.ended(job_id)
    assert (job.worker_id or "").startswith(f"{second}:")
    assert first_step_of_attempt(job_id, lost.attempt + 1) == left["step"] + 1
    assert published(job_id) == site.undisturbed


def test_a_machine_that_was_cut_off_publishes_nothing_when_it_is_back(site: Site) -> None:
    for name, worker in site.workers.items():
        if not worker.is_alive():
            site.start(name)
    job_id = site.train()
    cut_off = site.holder_with_state(job_id)
    other = next(name for name in site.names if name != cut_off)
    site.machines[cut_off].pull_out()
    before = state(job_id)
    assert before is not None
    trainer = [p for p in site.family(cut_off) if "worker.ml.training" in " ".join(p.cmdline())]
    assert trainer, "it computes on, and cannot tell anybody"
    job = site.ended(job_id)
    assert (job.worker_id or "").startswith(f"{other}:")
    assert published(job_id) == site.undisturbed
    told = len(story(job_id))
    site.machines[cut_off].plug_in()
    folders = site.folder(cut_off)
    site.wait("it gives up", lambda: not list(folders.glob(f"{job_id}-*")))
    assert all(not process.is_running() for process in trainer)
    after = row(job_id)
    assert (after.attempt, after.ended_at) == (job.attempt, job.ended_at)
    assert len(story(job_id)) == told
    assert published(job_id) == site.undisturbed
