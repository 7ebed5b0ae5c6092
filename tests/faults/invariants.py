"""What must hold when all is over: each function lists, in sentences, where it does not.

They read the database, the bucket, the witness and the workers' logs, and know nothing of what was
done to the stack.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import select, text

from app.database import transaction
from app.errors import NotFound
from app.generations.models import GeneratedImage, Generation
from app.jobs.models import TERMINAL, Job, JobEvent
from app.loras.models import Lora
from app.retention import service as retention
from app.storage import get_store
from app.trainings.models import Training, TrainingMetric
from tests.faults.harness import history

LEGAL = {
    (None, "queued"),
    ("queued", "running"),
    ("running", "queued"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "canceled"),
    ("queued", "canceled"),
}
# Every key that a row names, and the hash it should have where the row says one.
NAMED_OBJECTS = """
    SELECT object_key AS key, sha256 FROM images
    UNION ALL SELECT thumbnail_key, NULL FROM images WHERE thumbnail_key IS NOT NULL
    UNION ALL SELECT object_key, sha256 FROM checkpoints
    UNION ALL SELECT sample->>'object_key', NULL
        FROM checkpoints, jsonb_array_elements(samples) AS sample
    UNION ALL SELECT object_key, sha256 FROM loras
    UNION ALL SELECT object_key, sha256 FROM lora_files
    UNION ALL SELECT object_key, sha256 FROM generated_images
    UNION ALL SELECT object_key, sha256 FROM input_images
    UNION ALL SELECT file.value, NULL FROM trainings JOIN jobs USING (id)
        CROSS JOIN LATERAL jsonb_each_text(trainings.state->'files') AS file
        WHERE trainings.state IS NOT NULL AND jobs.status NOT IN ('succeeded')
"""
# A training that has ended keeps its last state, for as long as it is itself kept.
KEPT_STATES = """
    SELECT file.value FROM trainings
    CROSS JOIN LATERAL jsonb_each_text(trainings.state->'files') AS file
    WHERE trainings.state IS NOT NULL
"""


def lost_jobs(job_ids: Iterable[str]) -> list[str]:
    """Jobs that did not succeed; nothing here gives one a reason to fail."""
    with transaction() as session:
        jobs = {job.id: job for job in session.scalars(select(Job))}
    found = []
    for job_id in job_ids:
        job = jobs.get(job_id)
        if job is None:
            found.append(f"{job_id} is gone")
        elif job.status != "succeeded":
            found.append(f"{job_id} {job.status}: {job.error_code} {job.error_message}")
    return found


def untrue_stories(job_ids: Iterable[str]) -> list[str]:
    """Events with gaps or repeats, more than one end, or a status that cannot follow another."""
    found = []
    for job_id in job_ids:
        with transaction() as session:
            rows = session.execute(
                select(JobEvent.seq, JobEvent.type, JobEvent.payload)
                .where(JobEvent.job_id == job_id)
                .order_by(JobEvent.seq)
            ).all()
            last = session.get_one(Job, job_id).event_seq
        if [row.seq for row in rows] != list(range(1, last + 1)):
            found.append(f"{job_id}: events {[row.seq for row in rows]} of {last}")
        told = [row.payload for row in rows if row.type == "status"]
        ends = [payload for payload in told if payload["status"] in TERMINAL]
        if len(ends) != 1 or rows[-1].payload != ends[0]:
            found.append(f"{job_id}: {len(ends)} ends, the last event is {rows[-1].payload}")
        happened = history.changes(job_id)
        if [payload["status"] for payload in told] != [change.status for change in happened]:
            found.append(f"{job_id}: told {told}, but there were {happened}")
        found += [f"{job_id}: {change}" for change in happened if not _is_legal(change)]
        claims = [change.attempt for change in happened if change.status == "running"]
        attempts = [payload["attempt"] for payload in told if payload["status"] == "running"]
        if not attempts == claims == list(range(1, len(claims) + 1)):
            found.append(f"{job_id}: attempts {attempts}, claims {claims}")
    return found


def _is_legal(change: history.Change) -> bool:
    return (change.was, change.status) in LEGAL


def published_twice(job_ids: Iterable[str]) -> list[str]:
    """Trainings without exactly one LoRA, generations without exactly the pictures asked for."""
    with transaction() as session:
        loras = Counter(session.scalars(select(Lora.training_id)))
        asked = {row.id: row.request["num_images"] for row in session.scalars(select(Generation))}
        pictures = defaultdict(list)
        for job_id, index in session.execute(
            select(GeneratedImage.generation_id, GeneratedImage.index)
        ):
            pictures[job_id].append(index)
    found = []
    for job_id in job_ids:
        if job_id.startswith("trn_") and loras[job_id] != 1:
            found.append(f"{job_id} has {loras[job_id]} LoRAs")
        if job_id.startswith("gen_") and sorted(pictures[job_id]) != list(range(asked[job_id])):
            found.append(f"{job_id} has pictures {sorted(pictures[job_id])} of {asked[job_id]}")
    return found


def ended_by_strangers(logs: Iterable[Path]) -> list[str]:
    """Jobs that a worker says to have ended more than once, or by another than the last attempt."""
    ended: dict[str, list[int]] = defaultdict(list)
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            told = _parsed(line)
            if told.get("event") == "succeeded" and "job_id" in told:
                ended[told["job_id"]].append(told["attempt"])
    found = []
    with transaction() as session:
        for job_id, attempts in ended.items():
            job = session.get(Job, job_id)
            if job is not None and attempts != [job.attempt]:
                found.append(f"{job_id} was ended by attempts {attempts} of {job.attempt}")
    return found


def _parsed(line: str) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def foreign_files() -> list[str]:
    """Files that were made visible by an attempt that did not hold its job."""
    return history.foreign_files()


def missing_objects() -> list[str]:
    """Rows whose object is not in the bucket, or is another than the row says."""
    found = []
    with transaction() as session:
        rows = session.execute(text(NAMED_OBJECTS)).all()
    for key, sha256 in sorted({(row.key, row.sha256 or "") for row in rows}):
        try:
            stored = hashlib.sha256(get_store().get_bytes(key)).hexdigest()
        except NotFound:
            found.append(f"{key} is missing")
            continue
        if sha256 and stored != sha256:
            found.append(f"{key} has another hash than its row")
    return found


def orphans_after_sweep() -> tuple[int, list[str]]:
    """How many orphans a sweep of everything found, and those that are left after it."""
    with transaction() as session:
        swept = retention.sweep_orphans(session, get_store(), older_than_seconds=0)
    removed = 1
    while removed:
        with transaction() as session:
            removed = retention.sweep_doomed(session, get_store())
    with transaction() as session:
        rows = session.execute(text(NAMED_OBJECTS)).all()
        kept = session.scalars(text(KEPT_STATES)).all()
    needed = {row.key for row in rows} | set(kept)
    return len(swept), sorted(set(get_store().list_keys("accounts/")) - needed)


def begun_anew(job_ids: Iterable[str]) -> list[str]:
    """Attempts of a training that did not go on from the state that was newest at their claim."""
    found = []
    for job_id in job_ids:
        if not job_id.startswith("trn_"):
            continue
        states = history.states(job_id)
        claims = [change for change in history.changes(job_id) if change.status == "running"]
        for claim, (said, first_step) in zip(claims, _attempts(job_id), strict=True):
            before = [step for at, step in states if at < claim.at]
            wanted = before[-1] if before else None
            if said not in (wanted, "unsaid"):
                found.append(f"{job_id} attempt {claim.attempt}: from {said}, not from {wanted}")
            if wanted is not None and first_step is not None and first_step < wanted:
                found.append(f"{job_id} attempt {claim.attempt}: step {first_step} after {wanted}")
        with transaction() as session:
            steps = session.scalars(
                select(TrainingMetric.step)
                .where(TrainingMetric.training_id == job_id, TrainingMetric.loss.is_not(None))
                .order_by(TrainingMetric.step)
            ).all()
            total = session.get_one(Training, job_id).spec["params"]["max_steps"]
        if list(steps) != list(range(1, total + 1)):
            found.append(f"{job_id}: metrics of steps {list(steps)}, not of all {total}")
    return found


def _attempts(job_id: str) -> list[tuple[int | str | None, int | None]]:
    """Of each attempt: from which step it says to go on, and the first step it measured.

    The first is None where it says to begin anew or measures step 0, "unsaid" where it came to
    neither.
    """
    with transaction() as session:
        rows = session.execute(
            select(JobEvent.type, JobEvent.payload)
            .where(JobEvent.job_id == job_id)
            .order_by(JobEvent.seq)
        ).all()
    attempts: list[tuple[int | str | None, int | None]] = []
    for row in rows:
        if row.type == "status" and row.payload["status"] == "running":
            attempts.append(("unsaid", None))
        elif row.type == "log":
            message = row.payload["message"]
            if message.startswith("going on from step "):
                attempts[-1] = (int(message.rpartition(" ")[2]), attempts[-1][1])
            elif message.startswith("there is no state to go on from"):
                attempts[-1] = (None, attempts[-1][1])
        elif row.type == "metrics" and attempts[-1][1] is None:
            first = row.payload["metrics"][0]["step"]
            said = None if first == 0 and attempts[-1][0] == "unsaid" else attempts[-1][0]
            attempts[-1] = (said, first)
    return attempts
