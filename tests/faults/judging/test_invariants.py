"""The judge sees what is wrong: each thing that must not be is made, and found."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text, update

from app.database import transaction
from app.generations.models import GeneratedImage
from app.jobs import claiming, events, lifecycle
from app.jobs.lifecycle import Claim
from app.jobs.models import Job, JobEvent
from app.storage import get_store
from app.trainings.models import Training
from tests.faults import invariants
from tests.faults.harness import history
from tests.pictures import picture
from worker.workspace import attempt_key


@pytest.fixture(autouse=True)
def _witness(clean: object) -> Iterator[None]:  # noqa: ARG001 (order)
    with history.witness():
        yield


@pytest.fixture
def generation(client) -> str:
    """A queued generation of one picture; its id."""
    made = client.post("/v1/generations", json={"prompt": "a fox"})
    return str(made.json()["id"])


@pytest.fixture
def training(client) -> str:
    """A queued training; its id."""
    request = {"name": "ink", "task": "style", "trigger_word": "inkstyle"}
    dataset = client.post("/v1/datasets", json=request).json()["id"]
    files = [("files", ("0.png", picture(0), "image/png"))]
    client.post(f"/v1/datasets/{dataset}/images", files=files)
    request = {"dataset": dataset, "name": "ink", "params": {"max_steps": 2}}
    return str(client.post("/v1/trainings", json=request).json()["id"])


def claimed(queue: str) -> Claim:
    with transaction() as session:
        session.execute(update(Job).values(not_before=None))
        claim = claiming.claim(session, queue, "test")
    assert claim is not None
    return claim


def row_of(claim: Claim, index: int, key: str, data: bytes) -> GeneratedImage:
    return GeneratedImage(
        generation_id=claim.job_id,
        index=index,
        seed=1,
        width=64,
        height=64,
        format="png",
        object_key=key,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
    )


def finish(claim: Claim, *, pictures: int = 1) -> list[str]:
    """End a generation with so many pictures; their keys."""
    keys = [attempt_key(claim, f"{index}.png") for index in range(pictures)]
    with transaction() as session:
        for index, key in enumerate(keys):
            data = f"picture {index}".encode()
            get_store().put_bytes(key, data, "image/png")
            session.add(row_of(claim, index, key, data))
        session.flush()
        lifecycle.finish(session, claim, "succeeded", gpu_seconds=1)
    return keys


def judge(job_id: str) -> list[str]:
    """Everything that can be said of one job and of all objects."""
    return [
        *invariants.lost_jobs([job_id]),
        *invariants.untrue_stories([job_id]),
        *invariants.published_twice([job_id]),
        *invariants.foreign_files(),
        *invariants.missing_objects(),
        *invariants.orphans_after_sweep()[1],
        *invariants.begun_anew([job_id]),
    ]


def test_a_job_that_went_well_is_found_sound(generation):
    finish(claimed("generate"))
    assert judge(generation) == []


def test_a_job_that_has_not_ended_or_is_gone_is_lost(generation):
    assert "queued" in invariants.lost_jobs([generation])[0]
    assert invariants.lost_jobs(["gen_none"]) == ["gen_none is gone"]


def test_a_gap_and_a_second_end_and_an_untold_change_are_seen(generation):
    finish(claimed("generate"))
    with transaction() as session:
        events.append(session, generation, "status", {"status": "succeeded"})
    assert len(invariants.untrue_stories([generation])) == 2, "two ends, and one never happened"
    with transaction() as session:
        session.execute(
            text("DELETE FROM job_events WHERE job_id = :id AND seq = 2"), {"id": generation}
        )
    assert any("events [1, 3, 4]" in found for found in invariants.untrue_stories([generation]))


def test_a_step_that_no_job_may_take_is_seen(generation):
    finish(claimed("generate"))
    with transaction() as session:
        session.execute(update(Job).values(status="running"))
        session.execute(update(Job).values(status="succeeded"))
    assert any("was='succeeded'" in found for found in invariants.untrue_stories([generation]))


def test_too_many_and_too_few_results_are_seen(generation, training):
    finish(claimed("generate"), pictures=2)
    assert invariants.published_twice([generation]) == [f"{generation} has pictures [0, 1] of 1"]
    assert invariants.published_twice([training]) == [f"{training} has 0 LoRAs"]


@pytest.mark.usefixtures("generation")
def test_missing_and_changed_objects_are_seen_and_orphans_are_swept():
    claim = claimed("generate")
    (key,) = finish(claim)
    orphan = attempt_key(claim, "1.png")
    get_store().put_bytes(orphan, b"nobody's", "image/png")
    swept, left = invariants.orphans_after_sweep()
    assert swept >= 1, "other tests may have left some"
    assert left == []
    assert orphan not in get_store().list_keys("accounts/")
    get_store().put_bytes(key, b"another", "image/png")
    assert invariants.missing_objects() == [f"{key} has another hash than its row"]
    get_store().delete([key])
    assert invariants.missing_objects() == [f"{key} is missing"]


def test_a_file_of_a_lost_attempt_is_seen_when_it_is_shown(generation):
    stale = claimed("generate")
    with transaction() as session:
        lifecycle.release(session, stale, gpu_seconds=0, reason="worker_stopping")
    claimed("generate")
    key = shown(stale)
    assert invariants.foreign_files() == [f"{key} while {generation} was running, attempt 2"]


def shown(claim: Claim) -> str:
    """A picture under an attempt's own key, made visible without asking who holds the job."""
    key = attempt_key(claim, "0.png")
    with transaction() as session:
        session.add(row_of(claim, 0, key, b""))
    return key


def test_an_end_by_another_attempt_than_the_last_is_seen(generation, tmp_path: Path):
    claim = claimed("generate")
    finish(claim)
    log = tmp_path / "worker.log"
    line = {"event": "succeeded", "job_id": generation, "attempt": 1}
    log.write_text(f"not json\n{json.dumps(line)}\n")
    assert invariants.ended_by_strangers([log]) == []
    log.write_text(f"{json.dumps(line)}\n{json.dumps(line | {'attempt': 2})}\n")
    assert len(invariants.ended_by_strangers([log])) == 1


def test_a_training_that_begins_anew_or_from_an_old_state_is_seen(training):
    first = claimed("train")
    with transaction() as session:
        session.get_one(Training, training).state = {"step": 1, "files": {}}
    with transaction() as session:
        lifecycle.release(session, first, gpu_seconds=0, reason="worker_stopping")
    claimed("train")

    def found_after(message: str) -> str:
        with transaction() as session:
            events.append(session, training, "log", {"level": "info", "message": message})
        found = invariants.begun_anew([training])[0]
        with transaction() as session:
            last = session.get_one(Job, training).event_seq
            session.delete(session.get_one(JobEvent, (training, last)))
            session.execute(update(Job).where(Job.id == training).values(event_seq=last - 1))
        return found

    of_second = f"{training} attempt 2: from"
    anew = found_after("there is no state to go on from; starting at step 0")
    assert anew == f"{of_second} None, not from 1"
    assert found_after("going on from step 0") == f"{of_second} 0, not from 1"
    assert "metrics of steps" in found_after("going on from step 1")
