"""A training from submission to its LoRA, by the real trainer on the small base."""

from pathlib import Path
from typing import Any

import pytest

from app.settings import REPOSITORY, get_settings
from worker.runner import run_next

PICTURES = sorted((REPOSITORY / "examples" / "ink-style").glob("*.png"))
QUICK = {"seed": 3, "rank": 4, "alpha": 2, "epochs": 2, "num_repeats": 1, "batch_size": 4}


@pytest.fixture
def whole(client, tmp_path, monkeypatch):
    """Train on pictures and wait for its end."""
    monkeypatch.chdir(tmp_path)

    def dataset(pictures: list[Path], trigger_word: str) -> str:
        request = {"name": "ink", "task": "style", "trigger_word": trigger_word}
        dataset_id: str = client.post("/v1/datasets", json=request).json()["id"]
        files = [("files", (path.name, path.read_bytes(), "image/png")) for path in pictures]
        assert client.post(f"/v1/datasets/{dataset_id}/images", files=files).status_code == 201
        return dataset_id

    def train(dataset_id: str, **fields: Any) -> dict[str, Any]:
        params = QUICK | fields.pop("params", {})
        request = {"dataset": dataset_id, "name": "ink", "params": params, **fields}
        answer = client.post("/v1/trainings", json=request)
        assert answer.status_code == 201, answer.text
        assert run_next("train")
        ended: dict[str, Any] = client.get(f"/v1/trainings/{answer.json()['id']}").json()
        return ended

    return dataset, train


def test_a_class_is_kept_and_a_lora_gone_on_from(client, whole):
    dataset, train = whole
    subject, of_class = dataset(PICTURES[:20], "inkstyle"), dataset(PICTURES[20:23], "drawing")
    prior = {"dataset": of_class, "weight": 0.5}
    first = train(subject, params={"prior_preservation": prior})
    assert first["status"] == "succeeded", first["error"]
    # 18 of the 20 train; with as many class passes they make 9 steps of each epoch.
    assert first["progress"]["total_steps"] == 18
    second = train(subject, from_lora=first["lora"])
    assert second["status"] == "succeeded", second["error"]
    assert second["progress"]["total_steps"] == 10

    def metrics(training):
        return client.get(f"/v1/trainings/{training['id']}/metrics").json()["data"]

    def validation(training):
        return {row["step"]: row["validation_loss"] for row in metrics(training)}

    last = metrics(first)[-1]
    assert last["step"] == 18
    assert last["loss"] is not None, "told before the validation of the same step, and kept"
    assert last["validation_loss"] is not None
    checkpoints = client.get(f"/v1/trainings/{first['id']}/checkpoints").json()["data"]
    (best,) = [checkpoint for checkpoint in checkpoints if checkpoint["recommended"]]
    assert best["validation_loss"] != pytest.approx(validation(first)[0], rel=1e-4)
    # The same pictures and noise are held out, so it begins where the other was best.
    assert validation(second)[0] == pytest.approx(best["validation_loss"], rel=1e-4)


def test_two_processes_train_one_job_together(client, whole, monkeypatch):
    monkeypatch.setenv("LORAWRIGHT_TRAINING_PROCESSES", "2")
    get_settings.cache_clear()
    try:
        dataset, train = whole
        ended = train(dataset(PICTURES[:20], "inkstyle"))
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()
    assert ended["status"] == "succeeded", ended["error"]
    rows = client.get(f"/v1/trainings/{ended['id']}/metrics?limit=1000").json()["data"]
    # Each takes four of the 18 pictures at a time: three steps of an epoch instead of five.
    assert [row["step"] for row in rows] == list(range(7))
    assert ended["progress"]["step"] == ended["progress"]["total_steps"] == 6
    lora = client.get(f"/v1/loras/{ended['lora']}").json()
    assert lora["training"] == ended["id"]
