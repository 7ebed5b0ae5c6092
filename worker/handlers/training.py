"""Training: inputs down, the trainer as a child, its news into rows, its files up."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.database import JsonObject, new_id
from app.errors import JobInputMissing, NotFound, StorageUnavailable, TrainingFailed
from app.jobs import events, lifecycle
from app.lora_format.check import describe
from app.loras import service as loras
from app.retention import expiry
from app.retention.service import doom
from app.settings import get_settings
from app.storage import get_store
from app.trainings.models import Checkpoint, Training, TrainingMetric
from app.trainings.params import TrainingParams
from worker.handlers import understanding
from worker.handlers.context import JobContext
from worker.handlers.made_pictures import refusal
from worker.handlers.models import base_model_entry, base_model_spec
from worker.handlers.trainer_process import TrainerProcess, give_up_after, heard_at, trainer
from worker.handlers.trainer_watch import TrainerWatch
from worker.patience import patiently
from worker.stages import stage
from worker.workspace import attempt_key, cache_folder

log = logging.getLogger(__name__)
trainer_log = logging.getLogger("worker.trainer")
LEVELS = {"info": logging.INFO, "warning": logging.WARNING}

# Latents and text embeddings under the hash of what they were made from, shared by all trainings.
LATENT_CACHE = "training"
SAMPLE_STEPS = 20
# What the trainer measures at a checkpoint.
MEASURED = ("validation_loss", "base_validation_loss", "prior_drift")
IMAGE_FIELDS = ("sha256", "width", "height", "caption", "repeats")
# How long the trainer of a canceled job may take to save its state.
CANCEL_PATIENCE_SECONDS = 7.0
# The last file of a state that is written.
STATE_MANIFEST = "manifest.json"
WARM_START_FILE = "warm_start.safetensors"


@dataclass
class _Run:
    """What the trainer has told so far."""

    context: JobContext
    output: Path
    samples: dict[int, list[JsonObject]] = field(default_factory=dict)
    result: JsonObject | None = None
    error: JsonObject | None = None
    watch: TrainerWatch = field(default_factory=TrainerWatch)


def run(context: JobContext) -> Callable[[Session], None]:
    """Train from the frozen spec, or from the newest state that an earlier attempt has saved."""

    def read(session: Session) -> tuple[JsonObject, JsonObject | None]:
        training = session.get_one(Training, context.claim.job_id)
        return dict(training.spec), training.state

    spec, state = patiently(read)
    output = context.folder / "output"
    output.mkdir()
    with stage("download"):
        spec_path = _write_spec(context, spec)
        if state is not None and not _fetch_state(context, state, output):
            state = None
    running = _Run(context, output)
    settings = get_settings()
    with trainer(
        spec_path,
        output,
        cache_folder(LATENT_CACHE),
        state_every_seconds=settings.training_state_seconds,
        # More threads wait for one another longer than they help on networks that fit a CPU.
        cpu_threads=settings.torch_threads or 1,
        processes=settings.training_processes,
        resume=state is not None,
    ) as process:
        try:
            _listen(running, process, settings.graceful_stop_seconds)
        finally:
            running.watch.ended()
        exit_code = process.wait(settings.graceful_stop_seconds)
        context.check()
        if running.error is not None:
            raise TrainingFailed(
                running.error["code"],
                running.error["message"],
                retryable=bool(running.error.get("retryable")),
            )
        if exit_code != 0 or running.result is None:
            log.error("trainer ended with %s: %s", exit_code, process.log_tail())
            raise TrainingFailed(
                "trainer_crashed",
                f"The trainer ended unexpectedly (exit code {exit_code})",
                retryable=True,
            )
    return _publish(context, running.result)


def _write_spec(context: JobContext, spec: JsonObject) -> Path:
    """The frozen spec with local files in place of object keys."""
    understanding.check_training(spec)
    # A newer API may tell more, which this worker may pass over; its trainer would not.
    params = TrainingParams.model_validate(spec["params"], extra="ignore")
    entry = base_model_entry(spec["base_model"])
    folder = context.folder / "images"
    folder.mkdir()
    images = []
    for number, image in enumerate(spec["images"]):
        context.check()
        path = folder / f"{number:05d}.{image['format']}"
        try:
            get_store().get_file(image["object_key"], path)
        except NotFound as error:
            raise JobInputMissing(f"The picture {image['image']} is gone") from error
        images.append(
            {
                "path": str(path),
                **{name: image[name] for name in IMAGE_FIELDS},
                # Specs that were frozen before there were class pictures do not say.
                "regularization": image.get("regularization", False),
            }
        )
        context.progress(0.0, stage="download", step=number + 1, total_steps=len(spec["images"]))
    local = {
        "format": spec["format"],
        "name": spec["name"],
        "trigger_word": spec["trigger_word"],
        "params": params.model_dump(),
        "base_model": {
            **base_model_spec(entry).model_dump(exclude_none=True),
            "native_resolution": entry.native_resolution,
        },
        "images": images,
        "warm_start": _fetch_warm_start(context, spec.get("warm_start")),
        "sample_prompts": spec["sample_prompts"],
        "sample_steps": min(SAMPLE_STEPS, entry.generation.steps),
        "sample_guidance_scale": entry.generation.guidance_scale,
        # Nothing of this job: the same spec makes the same file, and a retry can go on.
        "metadata": {},
    }
    path = context.folder / "spec.json"
    path.write_text(json.dumps(local))
    return path


def _fetch_warm_start(context: JobContext, lora: JsonObject | None) -> str | None:
    """The LoRA file to go on from, beside the spec, checked by its hash; its name."""
    if lora is None:
        return None
    path = context.folder / WARM_START_FILE
    try:
        get_store().get_file(lora["object_key"], path)
    except NotFound as error:
        raise JobInputMissing(f"The LoRA {lora['lora']} is gone") from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != lora["sha256"]:
        raise TrainingFailed(
            "storage_corrupt",
            f"{lora['lora']} reads back from storage with another hash",
            retryable=True,
        )
    return path.name


def _listen(running: _Run, process: TrainerProcess, patience_seconds: float) -> None:
    """Turn the trainer's events into rows until its output ends, passing on a stop."""
    context = running.context
    out_of_patience: Callable[[], bool] | None = None

    def on_wait() -> None:
        nonlocal out_of_patience
        if context.lease.stop_reason == "lost":
            process.kill()
            context.check()
        if context.lease.should_stop() and out_of_patience is None:
            process.request_stop()
            draining = context.lease.stop_reason == "draining"
            out_of_patience = give_up_after(
                patience_seconds if draining else min(patience_seconds, CANCEL_PATIENCE_SECONDS)
            )
        if out_of_patience is not None and out_of_patience():
            process.kill()

    for event in process.events(on_wait):
        handler = _EVENT_HANDLERS.get(event["type"])
        if handler is not None:
            handler(running, event)


def _on_progress(running: _Run, event: JsonObject) -> None:
    running.watch.progress(event["stage"], heard_at(event))
    running.context.progress(
        event["fraction"],
        stage=event["stage"],
        step=event["step"],
        total_steps=event["total_steps"],
        eta_s=event["eta_s"],
    )


def _on_metrics(running: _Run, event: JsonObject) -> None:
    """One write a batch of steps; a resumed attempt writes the same steps again.

    A step's loss and its validation come one after the other, so neither erases the other.
    """
    if event.get("seconds"):
        running.watch.steps(event["rows"], event["seconds"], event["pictures"], heard_at(event))
    claim = running.context.claim
    names = [
        column.name for column in TrainingMetric.__table__.columns if column.name != "training_id"
    ]
    rows = [
        {"training_id": claim.job_id, **{name: row.get(name) for name in names}}
        for row in event["rows"]
    ]
    if not rows:
        return
    statement = insert(TrainingMetric).values(rows)

    def write(session: Session) -> None:
        lifecycle.hold(session, claim)
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["training_id", "step"],
                set_={
                    name: func.coalesce(statement.excluded[name], TrainingMetric.__table__.c[name])
                    for name in names
                    if name != "step"
                },
            )
        )
        events.append(session, claim.job_id, "metrics", {"metrics": event["rows"]})

    patiently(write)


def _on_log(running: _Run, event: JsonObject) -> None:
    trainer_log.log(LEVELS[event["level"]], "%s", event["message"])
    running.context.record("log", {"level": event["level"], "message": event["message"]})


def _on_sample(running: _Run, event: JsonObject) -> None:
    path = Path(event["path"])
    with Image.open(path) as image:
        rule = refusal(image)
    if rule is not None:
        # The LoRA is no picture: the training goes on without this one.
        message = f"a sample of step {event['step']} breaks this service's rule {rule!r}"
        running.context.record("log", {"level": "warning", "message": message})
        return
    key = attempt_key(running.context.claim, f"samples/{path.name}")
    get_store().put_file(key, path, "image/png")
    sample = {"prompt": event["prompt"], "seed": event["seed"], "object_key": key}
    running.samples.setdefault(event["step"], []).append(sample)
    running.context.record(
        "sample",
        {name: event[name] for name in ("step", "epoch", "prompt", "seed")},
    )


def _on_checkpoint(running: _Run, event: JsonObject) -> None:
    """Keep a LoRA file: stored first, then visible by a row, under the fence."""
    claim = running.context.claim
    step = event["step"]
    running.watch.checkpoint(step, heard_at(event))
    key = attempt_key(claim, f"checkpoints/{step:08d}.safetensors")
    with stage("upload"):
        get_store().put_file(key, Path(event["path"]), "application/octet-stream")
    values: dict[str, Any] = {
        "epoch": event["epoch"],
        **{name: event[name] for name in MEASURED},
        "object_key": key,
        "sha256": event["sha256"],
        "bytes": event["bytes"],
        "file_metadata": event["file_metadata"],
        "samples": running.samples.get(step, []),
    }

    def write(session: Session) -> None:
        lifecycle.hold(session, claim)
        session.execute(
            insert(Checkpoint)
            .values(
                id=new_id("ckpt"), training_id=claim.job_id, step=step, recommended=False, **values
            )
            .on_conflict_do_update(index_elements=["training_id", "step"], set_=values)
        )
        payload = {name: event[name] for name in ("step", "epoch", "sha256", *MEASURED)}
        events.append(session, claim.job_id, "checkpoint", payload)

    patiently(write)


def _on_state(running: _Run, event: JsonObject) -> None:
    """Keep a state that another worker can go on from; the one before it is then removed."""
    claim = running.context.claim
    folder = Path(event["path"])
    files: dict[str, str] = {}
    try:
        with stage("upload"):
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                relative = str(path.relative_to(running.output))
                files[relative] = attempt_key(claim, f"state/{relative}")
                get_store().put_file(files[relative], path, "application/octet-stream")
    except FileNotFoundError:
        files = {}
    if not files or not (folder / STATE_MANIFEST).is_file():
        # While storage was slow the trainer went on, and has made newer ones in its place; what
        # was sent of it is nobody's.
        log.info("the state at step %s was gone before it was stored", event["step"])
        return

    def write(session: Session) -> set[str]:
        lifecycle.hold(session, claim)
        row = session.get_one(Training, claim.job_id)
        outdated: set[str] = set()
        before, row.state = row.state, {"step": event["step"], "files": files}
        if before is not None:
            # A file of the same name has been written over; another's state is kept while needed.
            outdated = set(before["files"].values()) - set(files.values())
            doom(session, claim.account_id, outdated)
        return {key for key in outdated if f"/{claim.job_id}/" in key}

    # The sweeper would keep them until the job has ended, and they are large.
    outdated = patiently(write)
    with suppress(StorageUnavailable):
        get_store().delete(outdated)


def _on_result(running: _Run, event: JsonObject) -> None:
    running.result = event


def _on_error(running: _Run, event: JsonObject) -> None:
    running.error = event


_EVENT_HANDLERS: dict[str, Callable[[_Run, JsonObject], None]] = {
    "progress": _on_progress,
    "metrics": _on_metrics,
    "log": _on_log,
    "sample": _on_sample,
    "checkpoint": _on_checkpoint,
    "state": _on_state,
    "result": _on_result,
    "error": _on_error,
}


def _fetch_state(context: JobContext, state: JsonObject, output: Path) -> bool:
    """Lay a saved state out as the trainer left it; False if storage no longer has all of it.

    So it is after a restore: a newer state has taken its place since the database was dumped. The
    run begins anew then, and comes to the same end.
    """
    for relative, key in state["files"].items():
        target = output / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            get_store().get_file(key, target)
        except NotFound:
            shutil.rmtree(output)
            output.mkdir()
            message = f"the state at step {state['step']} is gone from storage; it begins anew"
            context.record("log", {"level": "warning", "message": message})
            return False
    return True


def _publish(context: JobContext, result: JsonObject) -> Callable[[Session], None]:
    """Read the recommended checkpoint back from storage, and make it a LoRA."""
    job_id = context.claim.job_id
    recommended = Checkpoint.training_id == job_id, Checkpoint.step == result["recommended_step"]
    checkpoint = patiently(
        lambda session: session.scalars(select(Checkpoint).where(*recommended)).one()
    )
    stored = context.folder / "stored.safetensors"
    get_store().get_file(checkpoint.object_key, stored)
    found = describe(stored)
    if found.hashes.sha256 != checkpoint.sha256:
        raise TrainingFailed(
            "storage_corrupt",
            f"{checkpoint.id} reads back from storage with another hash",
            retryable=True,
        )

    def publish(session: Session) -> None:
        session.execute(update(Checkpoint).where(*recommended).values(recommended=True))
        row = session.scalars(select(Checkpoint).where(*recommended)).one()
        training = session.get_one(Training, job_id)
        # An architecture whose modules the API does not know is trained all the same.
        report = None if found.problems else found.as_json()
        loras.publish(session, context.claim.account_id, training, row, report=report)
        # Nobody will go on from it.
        expiry.drop_state(session, context.claim.account_id, training)

    return publish
