"""Workers and API of two versions: what is passed over, and what is left to a newer worker."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from app.accounts.models import Account
from app.comparisons.models import Comparison
from app.database import new_id, transaction
from app.generations.models import Generation
from app.jobs import claiming, events
from app.jobs import service as jobs
from app.jobs.models import Job
from app.loras.models import LoraTool
from app.trainings.models import Training
from tests.pictures import picture
from worker.handlers import training
from worker.handlers.context import JobContext
from worker.lease import Lease
from worker.ml.training.spec import read_spec
from worker.runner import run_next

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def created(client: Any, path: str, body: Json) -> str:
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def submit_training(client: Any) -> str:
    dataset = created(
        client, "datasets", {"name": "ink", "task": "style", "trigger_word": "inkstyle"}
    )
    files = [("files", ("a.png", picture(), "image/png"))]
    assert client.post(f"/v1/datasets/{dataset}/images", files=files).status_code == 201
    return created(client, "trainings", {"dataset": dataset, "name": "ink"})


def submit_generation(client: Any) -> str:
    return created(client, "generations", {"prompt": "a fox", "steps": 1, "seed": 1})


def submit_comparison(client: Any) -> str:
    grid = {"prompt": "a fox", "steps": 1, "axes": [{"name": "seed", "values": [1, 2]}]}
    return created(client, "comparisons", grid)


def submit_tool(client: Any) -> str:
    del client
    job_id = new_id("tool")
    with transaction() as session:
        account = session.query(Account).filter_by(name="customer").one().id
        jobs.submit(session, job_id=job_id, kind="lora_tool", queue="generate", account_id=account)
        session.flush()
        session.add(LoraTool(id=job_id, operation="merge", request={}))
    return job_id


def ask_for_more(job_id: str) -> None:
    """Make of a request what a newer API would freeze."""
    with transaction() as session:
        if job_id.startswith("trn_"):
            row = session.get_one(Training, job_id)
            row.spec = row.spec | {"format": "lorawright.training/2"}
            return
        model = {"gen": Generation, "cmp": Comparison, "tool": LoraTool}[job_id.split("_")[0]]
        asked: Any = session.get_one(model, job_id)
        asked.request = asked.request | {"needs": 2}


@pytest.mark.parametrize(
    ("submit", "queue"),
    [
        (submit_training, "train"),
        (submit_generation, "generate"),
        (submit_comparison, "generate"),
        (submit_tool, "generate"),
    ],
)
def test_a_job_for_a_newer_worker_goes_back_and_nothing_is_counted(
    client: Any, submit: Any, queue: str
) -> None:
    job_id = submit(client)
    ask_for_more(job_id)
    assert run_next(queue)
    left_for_a_newer_worker(job_id)
    assert not run_next(queue), "others have a while to claim it"


def test_a_job_of_a_kind_that_this_worker_does_not_know_goes_back(client: Any) -> None:
    job_id = submit_generation(client)
    with transaction() as session:
        values = {"kind": "animation", "batch_key": None}
        session.execute(update(Job).where(Job.id == job_id).values(values))
    assert run_next("generate")
    left_for_a_newer_worker(job_id)


def left_for_a_newer_worker(job_id: str) -> None:
    with transaction() as session:
        job = session.get_one(Job, job_id)
        assert (job.status, job.failures, job.attempt, job.error_code) == ("queued", 0, 1, None)
        waits = select(Job.not_before > func.now()).where(Job.id == job_id)
        assert session.scalar(waits)
        told = [event.payload for event in events.read_after(session, job_id, 0)]
    assert told[-1] == {"status": "queued", "reason": "worker_too_old"}


def test_what_a_newer_api_tells_besides_is_passed_over_by_a_generation(client: Any) -> None:
    asked = {"prompt": "a fox", "steps": 1, "seed": 1, "hires": {"scale": 1.5, "strength": 1.0}}
    job_id = created(client, "generations", asked)
    with transaction() as session:
        row = session.get_one(Generation, job_id)
        hires = row.request["hires"] | {"sharpness": 3}
        row.request = row.request | {"tiling": False, "hires": hires, "needs": 1}
    assert run_next("generate")
    job = client.get(f"/v1/generations/{job_id}").json()
    assert job["status"] == "succeeded", job["error"]


def test_what_a_newer_api_tells_besides_is_passed_over_by_a_training(
    client: Any, tmp_path: Path
) -> None:
    job_id = submit_training(client)
    with transaction() as session:
        row = session.get_one(Training, job_id)
        images = [image | {"weather": "fair"} for image in row.spec["images"]]
        params = row.spec["params"] | {"momentum_of_dreams": 0}
        row.spec = row.spec | {"images": images, "params": params, "mood": None}
    with transaction() as session:
        claim = claiming.claim(session, "train", "test")
        assert claim is not None
        frozen = dict(session.get_one(Training, job_id).spec)
    with Lease(claim) as lease:
        spec = read_spec(training._write_spec(JobContext(claim, lease, tmp_path), frozen))
    assert spec.params.seed == frozen["params"]["seed"]
