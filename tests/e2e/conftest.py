"""The whole service: real servers, a real Celery worker and beat, and one road travelled once."""

import io
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app import tracing
from app.accounts import keys
from app.accounts import service as accounts
from app.cli.embedded import EmbeddedServers
from app.cli.stack.child import Child
from app.cli.stack.errors import PortTaken
from app.cli.stack.ports import LOOPBACK, free_port, require_free
from app.cli.stack.processes import beat_child, worker_children
from app.database import transaction
from tests import servers as servers_for_tests
from tests.otlp import Receiver, receiving

EXAMPLES = Path(__file__).parents[2] / "examples"
# Pauses are shortened, so that tests need not wait for what is measured in minutes.
VARIABLES = {
    "LORAWRIGHT_LOG_LEVEL": "info",
    "LORAWRIGHT_SWEEP_SECONDS": "1",
    "LORAWRIGHT_LEASE_SECONDS": "6",
    "LORAWRIGHT_HEARTBEAT_SECONDS": "1",
    "LORAWRIGHT_RETRY_BACKOFF_SECONDS": "0.5",
    "LORAWRIGHT_TRAINING_STATE_SECONDS": "3",
    "LORAWRIGHT_DEFAULT_BASE_MODEL": "emoji-64",
    "LORAWRIGHT_DEFAULT_CAPTIONER": "emoji-blip",
}
TIMEOUT_SECONDS = 240.0


@dataclass
class Service:
    """The API as one customer, and the processes behind it."""

    client: TestClient
    worker: Child
    restart_worker: Callable[[], None]

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """POST, which must succeed."""
        answer = self.client.post(path, json=body or {})
        assert answer.status_code < 300, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def get(self, path: str) -> dict[str, Any]:
        """GET, which must succeed."""
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def wait(
        self, path: str, until: Callable[[dict[str, Any]], bool] | None = None
    ) -> dict[str, Any]:
        """Poll a job until it has ended, or until a condition holds."""
        ends = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < ends:
            job = self.get(path)
            if until(job) if until else job["status"] in ("succeeded", "failed", "canceled"):
                return job
            assert job["status"] in ("queued", "running") or until is None, job
            time.sleep(0.1)
        raise AssertionError(f"{path} took over {TIMEOUT_SECONDS} s: {job}")

    def succeed(self, path: str) -> dict[str, Any]:
        """Wait until a job has succeeded."""
        job = self.wait(path)
        assert job["status"] == "succeeded", job
        return job

    def upload_example(self, folder: str, trigger: str) -> str:
        """A dataset of an example's pictures and captions; its id."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path in sorted((EXAMPLES / folder).iterdir()):
                if path.suffix in (".png", ".txt"):
                    archive.write(path, f"{folder}/{path.name}")
        dataset = self.post(
            "/v1/datasets",
            {
                "name": folder,
                "task": "style",
                "trigger_word": trigger,
                "caption_template": "{caption}, {trigger}",
            },
        )
        answer = self.client.post(
            f"/v1/datasets/{dataset['id']}/images",
            files=[("files", (f"{folder}.zip", buffer.getvalue(), "application/zip"))],
        )
        assert answer.status_code == 201, answer.text
        assert answer.json()["rejected"] == 0
        dataset_id: str = dataset["id"]
        return dataset_id


@dataclass
class Road:
    """What one travel of the main road left."""

    dataset: str
    captioning: dict[str, Any]
    training: dict[str, Any]
    lora: str


@dataclass
class Watching:
    """What the service is watched by: a receiver of traces, and a port for each worker's metrics.

    `variables` are what the service's processes see for it.
    """

    traces: Receiver
    ports: dict[str, int]
    variables: dict[str, str]


@pytest.fixture(scope="package")
def watching() -> Iterator[Watching]:
    """Begun before the API is made, which looks once whether there is anybody to send traces to."""
    first = free_port()
    while not _is_free(first + 1):
        first = free_port()
    with receiving() as traces, pytest.MonkeyPatch.context() as environment:
        to_receiver = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": traces.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        for name, value in to_receiver.items():
            environment.setenv(name, value)
        yield Watching(
            traces,
            {"worker": first, "worker-cpu": first + 1},
            to_receiver | {"LORAWRIGHT_METRICS_PORT": str(first)},
        )
        tracing.shut_down()


def _is_free(port: int) -> bool:
    try:
        require_free("metrics", LOOPBACK, port, "")
    except PortTaken:
        return False
    return True


@pytest.fixture(scope="package")
def service(servers: EmbeddedServers, watching: Watching) -> Iterator[Service]:
    """API, worker and beat over empty tables, for this folder: others claim jobs themselves."""
    from app.main import create_app

    servers_for_tests.empty()
    logs = servers.data_dir / "logs"
    logs.mkdir(exist_ok=True)
    variables = servers.environment() | VARIABLES | watching.variables
    redis_url = variables["LORAWRIGHT_REDIS_URL"]
    worker, worker_cpu = worker_children(redis_url, variables, logs)
    beat = beat_child(servers.data_dir, variables, logs)
    with transaction() as session:
        account = accounts.create_account(session, "customer")
        _, secret = keys.create_key(session, account.id, "e2e")

    def restart_worker() -> None:
        if worker.is_alive():
            worker.stop()
        worker.start()
        worker.wait_ready()

    try:
        for child in (worker, worker_cpu, beat):
            child.start()
        worker.wait_ready()
        worker_cpu.wait_ready()
        with TestClient(
            create_app(),
            headers={"Authorization": f"Bearer {secret}"},
            raise_server_exceptions=False,
            follow_redirects=False,
        ) as client:
            yield Service(client, worker, restart_worker)
    finally:
        beat.stop()
        worker_cpu.stop()
        worker.stop()


@pytest.fixture(scope="package")
def road(service: Service) -> Road:
    """The ink style: uploaded, captioned, trained with the base's defaults, published."""
    dataset = service.upload_example("ink-style", "inkstyle")
    captioning = service.post(f"/v1/datasets/{dataset}/captionings")
    captioning = service.succeed(f"/v1/captionings/{captioning['id']}")
    training = service.post(
        "/v1/trainings",
        {
            "dataset": dataset,
            "name": "ink",
            "params": {"seed": 20, "save_every_n_epochs": 8},
            "sample_prompts": ["red heart, inkstyle"],
        },
    )
    training = service.succeed(f"/v1/trainings/{training['id']}")
    return Road(dataset, captioning, training, training["lora"])


@dataclass
class Short:
    """A dataset, and a LoRA of a few steps for those who do not look at what it has learnt."""

    dataset: str
    lora: str


@pytest.fixture(scope="package")
def short(service: Service) -> Short:
    """The ink style with the captions that it comes with, trained for a moment."""
    dataset = service.upload_example("ink-style", "inkstyle")
    training = service.post(
        "/v1/trainings", {"dataset": dataset, "name": "sketch", "params": {"max_steps": 10}}
    )
    return Short(dataset, service.succeed(f"/v1/trainings/{training['id']}")["lora"])
