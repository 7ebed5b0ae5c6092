"""The handler lays the frozen spec out on this machine: real rows, real storage, no trainer."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.database import new_id, transaction
from app.errors import JobInputMissing, TrainingFailed
from app.jobs import claiming, events
from app.jobs.models import Job
from app.loras import service as loras
from app.storage import get_store
from app.trainings.models import Checkpoint, Training
from tests.pictures import picture
from worker.handlers import training
from worker.handlers.context import JobContext
from worker.lease import Lease
from worker.ml.training.spec import TrainingSpec, read_spec

Json = dict[str, Any]


@pytest.fixture
def dataset(client) -> Callable[..., str]:
    """Create a dataset of pictures with these seeds; its id."""

    def create(*seeds: int, trigger_word: str = "inkstyle") -> str:
        request = {"name": "ink", "task": "style", "trigger_word": trigger_word}
        dataset_id: str = client.post("/v1/datasets", json=request).json()["id"]
        files = [("files", (f"{n}.png", picture(n), "image/png")) for n in seeds]
        assert client.post(f"/v1/datasets/{dataset_id}/images", files=files).status_code == 201
        return dataset_id

    return create


@pytest.fixture
def submit(client) -> Callable[..., str]:
    """Queue a training on the small base; its id."""

    def post(dataset_id: str, **fields: Any) -> str:
        request = {"dataset": dataset_id, "name": "ink", "base_model": "emoji-64", **fields}
        answer = client.post("/v1/trainings", json=request)
        assert answer.status_code == 201, answer.text
        training_id: str = answer.json()["id"]
        return training_id

    return post


@contextmanager
def claimed(folder: Path) -> Iterator[JobContext]:
    """The oldest queued training, claimed and held."""
    with transaction() as session:
        claim = claiming.claim(session, "train", "test")
    assert claim is not None
    with Lease(claim) as lease:
        yield JobContext(claim, lease, folder)


def write(context: JobContext, change: Callable[[Json], Json] = dict) -> TrainingSpec:
    """The spec that the trainer would read, after a change of the frozen one."""
    with transaction() as session:
        frozen = dict(session.get_one(Training, context.claim.job_id).spec)
    return read_spec(training._write_spec(context, change(frozen)))


def test_class_pictures_reach_the_trainer_as_such(dataset, submit, tmp_path):
    subject, of_class = dataset(0, 1), dataset(2, trigger_word="dog")
    submit(subject, params={"prior_preservation": {"dataset": of_class}})
    with claimed(tmp_path) as context:
        spec = write(context)
    assert [image.regularization for image in spec.images] == [False, False, True]
    for image in spec.images:
        assert hashlib.sha256(Path(image.path).read_bytes()).hexdigest() == image.sha256
    assert spec.warm_start is None


@pytest.fixture
def stored_lora(dataset, submit, client) -> Callable[[bytes, str], str]:
    """A LoRA of these bytes under this hash, published from a canceled training; its id."""

    def store(content: bytes, sha256: str) -> str:
        training_id = submit(dataset(7), params={"rank": 4})
        client.post(f"/v1/trainings/{training_id}/cancel")
        key = f"tests/{training_id}.safetensors"
        get_store().put_bytes(key, content, "application/octet-stream")
        with transaction() as session:
            account_id = session.get_one(Job, training_id).account_id
            checkpoint = Checkpoint(
                id=new_id("ckpt"),
                training_id=training_id,
                epoch=1,
                step=1,
                object_key=key,
                sha256=sha256,
                bytes=len(content),
                file_metadata={},
                samples=[],
            )
            session.add(checkpoint)
            session.flush()
            row = session.get_one(Training, training_id)
            return loras.publish(session, account_id, row, checkpoint).id

    return store


CONTENT = b"what a LoRA file holds does not matter here"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_a_lora_to_go_on_from_lies_beside_the_spec(dataset, submit, stored_lora, tmp_path):
    submit(dataset(0), from_lora=stored_lora(CONTENT, SHA256))
    with claimed(tmp_path) as context:
        spec = write(context)
    assert spec.params.rank == 4
    assert spec.warm_start is not None
    assert Path(spec.warm_start).parent == tmp_path
    assert Path(spec.warm_start).read_bytes() == CONTENT


def test_a_lora_that_reads_back_otherwise_is_not_gone_on_from(
    dataset, submit, stored_lora, tmp_path
):
    submit(dataset(0), from_lora=stored_lora(CONTENT, "ab" * 32))
    with claimed(tmp_path) as context, pytest.raises(TrainingFailed) as failed:
        write(context)
    assert (failed.value.code, failed.value.retryable) == ("storage_corrupt", True)


def test_a_lora_whose_file_is_gone_ends_the_job(dataset, submit, stored_lora, tmp_path):
    lora = stored_lora(CONTENT, SHA256)
    training_id = submit(dataset(0), from_lora=lora)
    with transaction() as session:
        start = session.get_one(Training, training_id).spec["warm_start"]
    get_store().delete([start["object_key"]])
    with claimed(tmp_path) as context, pytest.raises(JobInputMissing, match=f"{lora} is gone"):
        write(context)


def test_specs_from_before_class_pictures_and_warm_starts_are_still_run(dataset, submit, tmp_path):
    submit(dataset(0, 1))

    def older(spec: Json) -> Json:
        images = [
            {name: value for name, value in image.items() if name != "regularization"}
            for image in spec["images"]
        ]
        return {**{n: v for n, v in spec.items() if n != "warm_start"}, "images": images}

    with claimed(tmp_path) as context:
        spec = write(context, older)
    assert [image.regularization for image in spec.images] == [False, False]
    assert spec.warm_start is None


@contextmanager
def with_state(context: JobContext, step: int) -> Iterator[tuple[training._Run, Path]]:
    """A run whose trainer has written a state, as it tells of it."""
    running = training._Run(context, context.folder / "output")
    folder = running.output / "states" / f"state-{step:08d}"
    folder.mkdir(parents=True)
    for name in ("manifest.json", "position.json", "tensors.safetensors"):
        (folder / name).write_text(f"{name} {step}")
    yield running, folder


def newest(training_id: str) -> Json:
    with transaction() as session:
        state = session.get_one(Training, training_id).state
    assert state is not None
    return state


def stored_states(context: JobContext) -> list[str]:
    prefix = f"accounts/{context.claim.account_id}/jobs/{context.claim.job_id}/"
    return sorted(get_store().list_keys(prefix))


def test_a_new_state_takes_the_place_of_the_one_before(dataset, submit, tmp_path):
    training_id = submit(dataset(0))
    with claimed(tmp_path) as context:
        for step in (4, 8):
            with with_state(context, step) as (running, folder):
                training._on_state(running, {"step": step, "path": str(folder)})
    state = newest(training_id)
    assert state["step"] == 8
    assert sorted(state["files"].values()) == stored_states(context)
    assert len(state["files"]) == 3


def test_a_state_that_the_trainer_has_dropped_meanwhile_does_not_replace_the_last(
    dataset, submit, tmp_path, monkeypatch
):
    training_id = submit(dataset(0))
    with claimed(tmp_path) as context:
        with with_state(context, 4) as (running, folder):
            training._on_state(running, {"step": 4, "path": str(folder)})
        before = newest(training_id)
        # Gone before anything was sent, and gone between two files.
        with with_state(context, 8) as (running, folder):
            shutil.rmtree(folder)
            training._on_state(running, {"step": 8, "path": str(folder)})
        with with_state(context, 12) as (running, folder):
            store = get_store()
            put_file = store.put_file

            def drop_it(key: str, source: Path, content_type: str) -> None:
                put_file(key, source, content_type)
                shutil.rmtree(folder, ignore_errors=True)

            monkeypatch.setattr(store, "put_file", drop_it)
            training._on_state(running, {"step": 12, "path": str(folder)})
    assert newest(training_id) == before
    assert set(before["files"].values()) <= set(stored_states(context))


def test_a_training_whose_state_is_gone_from_storage_begins_anew_and_says_so(
    dataset, submit, tmp_path
):
    training_id = submit(dataset(0))
    with claimed(tmp_path) as context:
        with with_state(context, 4) as (running, folder):
            training._on_state(running, {"step": 4, "path": str(folder)})
        state = newest(training_id)
        output = tmp_path / "elsewhere"
        assert training._fetch_state(context, state, output)
        assert len([path for path in output.rglob("*") if path.is_file()]) == 3
        get_store().delete([sorted(state["files"].values())[-1]])
        assert not training._fetch_state(context, state, output)
        assert list(output.iterdir()) == []
        with transaction() as session:
            told = [event.payload for event in events.read_after(session, training_id, 0)]
    assert told[-1]["message"] == "the state at step 4 is gone from storage; it begins anew"
