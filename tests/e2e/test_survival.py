"""What becomes of a training whose customer, worker or trainer goes away in the middle."""

import contextlib
import os
import signal
import time

import psutil

from app.database import transaction
from app.trainings.models import Training
from tests.e2e.conftest import Service, Short

STEPS = 90


def start_training(service: Service, short: Short, **params) -> str:
    training = service.post(
        "/v1/trainings",
        {
            "dataset": short.dataset,
            "name": "short",
            "params": {"seed": 5, "max_steps": STEPS, "rank": 4, "batch_size": 8, **params},
        },
    )
    return f"/v1/trainings/{training['id']}"


def past_step(step: int):
    return lambda job: (
        job["progress"]["stage"] == "train" and (job["progress"]["step"] or 0) >= step
    )


def has_state(path: str) -> bool:
    with transaction() as session:
        return session.get_one(Training, path.rpartition("/")[2]).state is not None


def checksum(service: Service, path: str) -> str:
    lora = service.get(path)["lora"]
    digest: str = service.get(f"/v1/loras/{lora}")["sha256"]
    return digest


def test_a_canceled_training_ends_soon_and_a_retry_goes_on_from_its_state(
    service: Service, short: Short
):
    path = start_training(service, short)
    service.wait(path, past_step(5))
    asked = time.monotonic()
    assert service.post(f"{path}/cancel")["status"] == "running"
    job = service.wait(path)
    assert job["status"] == "canceled"
    assert time.monotonic() - asked < 10, "the contract's limit for a training"
    assert has_state(path)
    retried = service.post(f"{path}/retry")
    again = f"/v1/trainings/{retried['id']}"
    service.succeed(again)
    rows = service.get(f"{again}/metrics?limit=1000")["data"]
    assert rows[0]["step"] > 0, "it did not begin anew"
    assert rows[-1]["step"] == STEPS


def test_a_killed_worker_loses_no_training_and_the_bytes_are_the_same(
    service: Service, short: Short
):
    undisturbed = start_training(service, short)
    service.succeed(undisturbed)
    killed = start_training(service, short)
    service.wait(killed, past_step(5))
    ends = time.monotonic() + 60
    while not has_state(killed) and time.monotonic() < ends:
        time.sleep(0.1)
    assert service.worker.pid is not None
    family = psutil.Process(service.worker.pid).children(recursive=True)
    os.kill(service.worker.pid, signal.SIGKILL)
    for process in family:
        # The worker's own child ends with it or is killed like it; the trainer must end by itself.
        if "worker.ml.training" not in " ".join(_cmdline(process)):
            _kill(process)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, "the trainer outlived its worker"
    service.restart_worker()
    job = service.succeed(killed)
    assert job["attempts"] == 2
    assert checksum(service, killed) == checksum(service, undisturbed)
    steps = [row["step"] for row in service.get(f"{killed}/metrics?limit=1000")["data"]]
    assert steps == list(range(STEPS + 1))


def test_a_stopped_worker_saves_its_training_and_gives_the_job_back(service: Service, short: Short):
    path = start_training(service, short)
    service.wait(path, past_step(5))
    asked = time.monotonic()
    service.worker.stop()
    assert time.monotonic() - asked < 30, "the design's limit for a stop"
    job = service.get(path)
    assert job["status"] == "queued", job
    assert has_state(path)
    service.restart_worker()
    job = service.succeed(path)
    assert job["error"] is None


def test_a_canceled_generation_ends_and_publishes_nothing(service: Service, short: Short):
    job = service.post(
        "/v1/generations",
        {"prompt": "a fox", "steps": 150, "num_images": 8, "loras": [{"lora": short.lora}]},
    )
    path = f"/v1/generations/{job['id']}"
    service.wait(path, lambda job: job["status"] == "running")
    asked = time.monotonic()
    service.post(f"{path}/cancel")
    job = service.wait(path)
    assert (job["status"], job["images"]) == ("canceled", [])
    assert time.monotonic() - asked < 5


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
