"""A backup that is made while the service works, and an installation that is put back from it."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from app.broker import MAINTENANCE, WORK_QUEUES, get_redis
from app.database import transaction, utc_now
from app.doctor.examination import examine
from app.doctor.findings import Finding
from app.generations.models import GeneratedImage
from app.jobs import claiming
from app.jobs.models import Job
from app.migrate import upgrade
from app.retention import service as retention
from app.settings import get_settings
from app.storage import get_store
from app.workers import service as workers
from app.workers.service import Report
from tests.operations import backup
from tests.pictures import picture
from tests.safetensors_files import sound, whole
from worker import chores
from worker.handlers import training
from worker.handlers.context import JobContext
from worker.lease import Lease
from worker.runner import run_next

Json = dict[str, Any]


@pytest.fixture
def client(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The service over an empty bucket; whatever a test does, the next one finds its tables."""
    monkeypatch.chdir(tmp_path)
    get_store().delete(get_store().list_keys(""))
    yield client
    upgrade(get_settings().database_url)


@pytest.fixture
def removal_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is deleted leaves the bucket after an hour only, as long as a backup may take."""
    settings = get_settings().model_copy(update={"removal_delay_seconds": 3600.0})
    monkeypatch.setattr(retention, "get_settings", lambda: settings)


def post(client: Any, path: str, body: Json) -> Json:
    answer = client.post(f"/v1{path}", json=body)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def fill(client: Any, pictures: int = 4) -> str:
    """A dataset of pictures, measured; its id."""
    request = {"name": "ink", "task": "style", "trigger_word": "inkstyle"}
    dataset: str = post(client, "/datasets", request)["id"]
    add_pictures(client, dataset, range(pictures))
    assert run_next("ingest")
    return dataset


def add_pictures(client: Any, dataset: str, seeds: range) -> None:
    files = [("files", (f"{n}.png", picture(n), "image/png")) for n in seeds]
    answer = client.post(f"/v1/datasets/{dataset}/images", files=files)
    assert answer.status_code == 201, answer.text


def upload_lora(client: Any, note: str) -> str:
    """A LoRA that fits the small base; another note, another file."""
    data = sound(whole("emoji-64"), {"ss_training_comment": note})
    answer = client.post("/v1/loras", files={"file": (f"{note}.safetensors", data)})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def generate(client: Any, **fields: Any) -> str:
    request = {"prompt": "a red apple", "steps": 2, "seed": 1, **fields}
    return str(post(client, "/generations", request)["id"])


def be_at_work() -> None:
    """Say that workers are alive at every queue, and sweep."""
    with transaction() as session:
        told = Report("here:1", (*WORK_QUEUES, MAINTENANCE), "1", utc_now())
        workers.report(session, told)
    chores.sweep()


def problems() -> list[Finding]:
    be_at_work()
    findings = examine(with_objects=True, with_hashes=True)
    return [finding for finding in findings if finding.level == "problem"]


def statuses(client: Any, *job_ids: str) -> list[str]:
    return [client.get(f"/v1/jobs/{job_id}").json()["status"] for job_id in job_ids]


def let_leases_run_out() -> None:
    with transaction() as session:
        session.execute(
            update(Job)
            .where(Job.status == "running")
            .values(lease_expires_at=Job.lease_expires_at - timedelta(hours=1))
        )
    chores.sweep()
    with transaction() as session:
        session.execute(update(Job).values(not_before=None))


@pytest.mark.usefixtures("removal_waits")
def test_an_installation_is_put_back_from_a_dump_and_a_later_copy_of_the_bucket(
    client: Any, tmp_path: Path
) -> None:
    dataset = fill(client)
    lora, doomed = upload_lora(client, "kept"), upload_lora(client, "deleted")
    done = generate(client, loras=[{"lora": lora, "weight": 0.01}])
    grid = post(
        client,
        "/comparisons",
        {
            "prompt": "a fox",
            "steps": 2,
            "loras": [{"lora": lora}],
            "axes": [{"name": "weight", "lora": lora, "values": [0, 0.01]}],
        },
    )["id"]
    assert run_next("generate")
    assert run_next("generate")
    assert statuses(client, done, grid) == ["succeeded", "succeeded"]
    trained = post(client, "/trainings", {"dataset": dataset, "name": "ink"})["id"]
    running, waiting = generate(client, prompt="runs"), generate(client, prompt="waits")
    with transaction() as session:
        of_training = claiming.claim(session, "train", "lost:1")
        of_running = claiming.claim(session, "generate", "lost:1")
    assert of_training is not None
    assert of_running is not None
    assert of_running.job_id == running

    with Lease(of_training) as lease:
        context = JobContext(of_training, lease, tmp_path)
        save_state(context, tmp_path, 4)
        dumped = dump_under_load(client, dataset, tmp_path)
        # What happens until the bucket is copied: jobs end, states follow one another, things go.
        save_state(context, tmp_path, 8)
    client.delete(f"/v1/loras/{doomed}")
    assert run_next("generate")
    assert statuses(client, waiting) == ["succeeded"]
    first_run = pictures_of(waiting)
    be_at_work()
    copied = backup.copy_bucket(tmp_path / "bucket")

    backup.wipe()
    backup.restore(dumped, copied)
    assert get_redis().dbsize() == 0
    assert statuses(client, done, running, waiting) == ["succeeded", "running", "queued"]
    gone = problems()
    assert {finding.check for finding in gone} == {"objects.missing"}
    assert all("/state/" in (finding.object_key or "") for finding in gone), (
        "states replace one another; all else that the dump names is in the copy"
    )

    # The jobs that ran are lost by their leases, and run again beside what was stored before.
    let_leases_run_out()
    assert run_next("generate")
    assert run_next("generate")
    assert statuses(client, running, waiting) == ["succeeded", "succeeded"]
    assert client.get(f"/v1/loras/{doomed}").status_code == 200, "it was deleted after the dump"
    again = pictures_of(waiting)
    assert first_run.keys().isdisjoint(again), "the same attempt of two histories"
    assert set(first_run.values()) == set(again.values()), "the same picture"
    assert set(first_run) <= set(get_store().list_keys("accounts/"))
    client.post(f"/v1/trainings/{trained}/cancel")
    client.delete(f"/v1/trainings/{trained}")
    assert problems() == []

    # And whoever loses an object is told which.
    (key,), (other,) = again, pictures_of(done)
    get_store().delete([key])
    content = bytearray(get_store().get_bytes(other))
    content[-1] ^= 1
    get_store().put_bytes(other, bytes(content), "image/png")
    assert sorted((finding.check, finding.object_key) for finding in problems()) == [
        ("objects.hash", other),
        ("objects.missing", key),
    ]


def save_state(context: JobContext, folder: Path, step: int) -> None:
    """What the trainer's state of a step becomes."""
    running = training._Run(context, folder / "output")
    path = running.output / "states" / f"state-{step:08d}"
    path.mkdir(parents=True)
    for name in ("manifest.json", "tensors.safetensors"):
        (path / name).write_text(f"{name} {step}")
    training._on_state(running, {"step": step, "path": str(path)})


def dump_under_load(client: Any, dataset: str, folder: Path) -> Path:
    """Dump while pictures come in; those of the dump must all be in a copy that is made later."""
    begun, over = threading.Event(), threading.Event()

    def upload() -> None:
        for number in range(100, 1000):
            add_pictures(client, dataset, range(number, number + 1))
            begun.set()
            if over.is_set():
                return

    sender = threading.Thread(target=upload)
    sender.start()
    try:
        assert begun.wait(30)
        return backup.dump(folder / "lorawright.dump")
    finally:
        over.set()
        sender.join()


def pictures_of(job_id: str) -> dict[str, str]:
    """The keys of a generation's pictures, and their hashes."""
    with transaction() as session:
        rows = session.scalars(
            select(GeneratedImage).where(GeneratedImage.generation_id == job_id)
        ).all()
        return {row.object_key: row.sha256 for row in rows}


def test_a_copy_that_is_older_than_the_dump_lacks_what_came_between(
    client: Any, tmp_path: Path
) -> None:
    dataset = fill(client, pictures=1)
    copied = backup.copy_bucket(tmp_path / "bucket")
    add_pictures(client, dataset, range(7, 8))
    dumped = backup.dump(tmp_path / "lorawright.dump")
    backup.wipe()
    backup.restore(dumped, copied)
    (missing,) = problems()
    assert missing.check == "objects.missing"
    assert missing.text.endswith(f": image {newest_image(client, dataset)}")


def test_without_a_delay_what_is_deleted_between_dump_and_copy_is_missing(
    client: Any, tmp_path: Path
) -> None:
    lora = upload_lora(client, "deleted")
    dumped = backup.dump(tmp_path / "lorawright.dump")
    client.delete(f"/v1/loras/{lora}")
    be_at_work()
    copied = backup.copy_bucket(tmp_path / "bucket")
    backup.wipe()
    backup.restore(dumped, copied)
    (missing,) = problems()
    assert (missing.check, missing.text.split(": ")[1]) == ("objects.missing", f"LoRA {lora}")


def newest_image(client: Any, dataset: str) -> str:
    return str(client.get(f"/v1/datasets/{dataset}/images").json()["data"][0]["id"])
