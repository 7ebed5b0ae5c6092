"""Generations through the runner: real rows, real storage, the real small base."""

import base64
import io
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sqlalchemy import update

from app.accounts.models import Account
from app.database import new_id, transaction
from app.generations.models import GeneratedImage as ImageRow
from app.jobs import claiming, events, lifecycle
from app.jobs.models import Job
from app.loras.models import Lora as LoraRow
from app.storage import get_store
from worker import runner
from worker.handlers import lora_cache, prefetch
from worker.handlers.models import base_model_entry, base_model_spec, pipelines
from worker.workspace import cache_folder

Json = dict[str, Any]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make_lora(client: object, tmp_path: Path) -> Any:  # noqa: ARG001 (order)
    """A LoRA of the small base's attention in storage and in the registry; its id."""
    handle = pipelines().get(base_model_spec(base_model_entry("emoji-64")))
    layers = {
        name: module.weight
        for name, module in handle.base.unet.named_modules()
        if name.endswith(("attn1.to_q", "attn2.to_v"))
    }

    def make(seed: int) -> str:
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, weight in layers.items():
            out, inputs = weight.shape
            key = f"lora_unet_{name.replace('.', '_')}"
            down = torch.randn(4, inputs, generator=generator) / inputs**0.5
            tensors[f"{key}.lora_down.weight"] = down
            tensors[f"{key}.lora_up.weight"] = torch.randn(out, 4, generator=generator)
        path = tmp_path / f"{seed}.safetensors"
        save_file(tensors, path)
        key = f"tests/{seed}.safetensors"
        get_store().put_file(key, path, "application/octet-stream")
        with transaction() as session:
            account = session.query(Account).filter_by(name="customer").one()
            lora = LoraRow(
                id=new_id("lora"),
                account_id=account.id,
                name=f"lora {seed}",
                base_model="emoji-64",
                architecture="emoji-64",
                source="upload",
                rank=4,
                alpha=4.0,
                object_key=key,
                sha256=get_store().sha256(key),
                bytes=path.stat().st_size,
                file_metadata={},
            )
            session.add(lora)
            return lora.id

    return make


@pytest.fixture
def submit(client: Any) -> Any:
    def post(**fields: Any) -> str:
        request = {"prompt": "a red apple", "steps": 4, "seed": 1, **fields}
        answer = client.post("/v1/generations", json=request)
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    return post


def batched(*job_ids: str) -> None:
    with transaction() as session:
        session.execute(update(Job).where(Job.id.in_(job_ids)).values(batch_key="together"))


def read(client: Any, job_id: str) -> Json:
    answer: Json = client.get(f"/v1/generations/{job_id}").json()
    return answer


def picture(generation: Json, index: int = 0) -> Any:
    data = get_store().get_bytes(_key(generation, index))
    return np.asarray(Image.open(io.BytesIO(data)), dtype=np.int16)


def _key(generation: Json, index: int) -> str:
    with transaction() as session:
        image = session.get_one(ImageRow, (generation["id"], index))
        assert f"/jobs/{generation['id']}/{generation['attempts']}-" in image.object_key
        return image.object_key


def test_jobs_claimed_together_are_drawn_as_they_would_be_alone(client, submit, make_lora):
    loras = [make_lora(seed) for seed in (1, 2)]
    requests = [
        {"loras": [{"lora": loras[0], "weight": 0.9}]},
        {"loras": [{"lora": loras[1], "weight": -0.7, "end": 0.6}], "num_images": 2},
        {"prompt": "a blue car"},
    ]
    together = [submit(**request) for request in requests]
    batched(*together)
    assert runner.run_next("generate")
    jobs = [read(client, job_id) for job_id in together]
    assert [job["status"] for job in jobs] == ["succeeded"] * 3
    assert [len(job["images"]) for job in jobs] == [1, 2, 1]
    assert jobs[1]["loras"][0]["matched"] > 0
    # Each pays for its own places.
    shares = [job["usage"]["gpu_seconds"] for job in jobs]
    assert all(share > 0 for share in shares)

    for request, job in zip(requests, jobs, strict=True):
        alone = submit(**request)
        assert runner.run_next("generate")
        single = read(client, alone)
        for index in range(len(job["images"])):
            assert abs(picture(job, index) - picture(single, index)).max() <= 3
    assert not runner.run_next("generate")


def test_one_whose_lora_is_gone_fails_alone(client, submit, make_lora):
    gone = make_lora(3)
    broken, sound = submit(loras=[{"lora": gone}]), submit()
    get_store().delete(["tests/3.safetensors"])
    (cache_folder("loras") / f"{_sha256(gone)}.safetensors").unlink(missing_ok=True)
    batched(broken, sound)
    runner.run_next("generate")
    job = read(client, broken)
    assert (job["status"], job["error"]["code"]) == ("failed", "input_missing")
    assert read(client, sound)["status"] == "succeeded"


def _sha256(lora_id: str) -> str:
    with transaction() as session:
        return session.get_one(LoraRow, lora_id).sha256


def test_a_cancel_ends_one_of_a_batch_while_the_others_are_drawn_on(client, submit, monkeypatch):
    """The cancel is on the row before the first step, and the row has ended by the last."""
    first, second = submit(steps=30), submit(steps=30)
    batched(first, second)
    seen = []
    real = lifecycle.report_progress

    def watched(session, claim, **values):
        if claim.job_id == second and values.get("step"):
            seen.append((values["step"], read(client, first)["status"]))
        real(session, claim, **values)

    monkeypatch.setattr(lifecycle, "report_progress", watched)
    monkeypatch.setattr("worker.handlers.context.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("worker.lease.TICK_SECONDS", 0.01)
    real_claim = claiming.claim_mates

    def claim_then_cancel(*args):
        mates = real_claim(*args)
        # As a customer would, once the job runs: the whisper comes after the lease listens.
        timer = threading.Timer(0.3, client.post, [f"/v1/generations/{first}/cancel"])
        timer.start()
        return mates

    monkeypatch.setattr(claiming, "claim_mates", claim_then_cancel)
    runner.run_next("generate")
    assert read(client, first)["status"] == "canceled"
    assert read(client, second)["status"] == "succeeded"
    assert "canceled" in {status for _, status in seen}


def test_previews_come_as_samples_of_the_story(client, submit):
    job_id = submit(steps=6, previews=2)
    runner.run_next("generate")
    assert read(client, job_id)["status"] == "succeeded"
    with transaction() as session:
        story = events.read_after(session, job_id, 0)
        samples = [event.payload for event in story if event.type == "sample"]
    assert [(sample["index"], sample["step"]) for sample in samples] == [(0, 2), (0, 4)]
    header, _, packed = samples[0]["image"].partition(",")
    assert header == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(packed))).size == (16, 16)
    assert len(packed) < 10_000


def test_the_next_requests_loras_are_parsed_ahead(client, submit, make_lora):  # noqa: ARG001
    wanted = make_lora(4)
    submit(loras=[{"lora": wanted}])
    handle = pipelines().get(base_model_spec(base_model_entry("emoji-64")))
    ahead = prefetch.Prefetch(handle.bank, "emoji-64")
    ahead._run()
    sha256 = _sha256(wanted)
    # Without its file only what is kept can answer.
    assert handle.bank.load(Path("/nowhere"), sha256).sha256 == sha256


def test_the_disk_cache_keeps_to_its_size_and_to_what_is_in_use(tmp_path):
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(b"x" * 100)
        os.utime(path, (time.time() - 10_000 + number,) * 2)
    os.utime(tmp_path / "0.safetensors")
    lora_cache._prune(tmp_path, 250)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["0", "3"]


def test_an_init_image_and_its_mask_are_honoured_and_named_in_the_receipt(client, submit):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (10, 200, 40)).save(buffer, "png")
    files = {"file": ("green.png", buffer.getvalue(), "image/png")}
    green = client.post("/v1/inputs", files=files).json()
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    buffer = io.BytesIO()
    mask.save(buffer, "png")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    job_id = submit(init_image=green["id"], mask_image=url, strength=1.0)
    runner.run_next("generate")
    job = read(client, job_id)
    assert job["status"] == "succeeded", job
    assert job["receipt"]["init_image_sha256"] == green["sha256"]
    assert len(job["receipt"]["mask_image_sha256"]) == 64
    drawn = picture(job)
    assert (drawn[:, 32:] == (10, 200, 40)).all()
    assert abs(drawn[:, :32] - (10, 200, 40)).mean() > 3

    # What was drawn can be drawn on.
    again = submit(init_image=f"{job_id}/0", strength=0.5)
    runner.run_next("generate")
    assert read(client, again)["receipt"]["init_image_sha256"] == job["images"][0]["sha256"]


def test_a_second_pass_enlarges(client, submit):
    job_id = submit(hires={"scale": 1.5, "strength": 0.5})
    runner.run_next("generate")
    job = read(client, job_id)
    assert [(i["width"], i["height"]) for i in job["images"]] == [(96, 96)]
    assert job["receipt"]["hires"]["scale"] == 1.5


def test_a_replay_makes_the_same_bytes_though_the_lora_was_renamed(client, submit, make_lora):
    lora = make_lora(6)
    first = submit(loras=[{"lora": lora, "weight": 0.6}], num_images=2)
    assert client.post(f"/v1/generations/{first}/replay").status_code == 409
    runner.run_next("generate")
    client.patch(f"/v1/loras/{lora}", json={"name": "other", "default_weight": 0.1})
    again = client.post(f"/v1/generations/{first}/replay")
    assert again.status_code == 201, again.text
    runner.run_next("generate")
    before, after = read(client, first), read(client, again.json()["id"])
    assert after["request"] == before["request"]
    assert [i["sha256"] for i in after["images"]] == [i["sha256"] for i in before["images"]]
    assert client.post("/v1/generations/gen_none/replay").status_code == 404


def test_no_more_is_claimed_than_would_be_drawn_at_once(client, submit, monkeypatch):
    jobs = [submit() for _ in range(3)]
    handle = pipelines().get(base_model_spec(base_model_entry("emoji-64")))
    real = handle.plan
    few = lambda *size, **wanted: replace(real(*size, **wanted), batch=2)  # noqa: E731
    monkeypatch.setattr(handle, "plan", few)
    runner.run_next("generate")
    assert [read(client, job)["status"] for job in jobs] == ["succeeded", "succeeded", "queued"]

    # Another worker, which has not loaded the base model, cannot know yet.
    monkeypatch.setattr(handle, "plan", real)
    monkeypatch.setattr(pipelines(), "find", lambda _: None)
    more = submit()
    runner.run_next("generate")
    assert [read(client, job)["status"] for job in (jobs[2], more)] == ["succeeded", "queued"]
