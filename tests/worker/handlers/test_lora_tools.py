"""LoRA tools from the request to the file: real rows, real storage, the job run in this process."""

import io
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.catalog import load_catalog
from app.database import transaction
from app.errors import LeaseLost
from app.jobs import claiming, lifecycle
from app.lora_format.architectures import architectures
from app.loras.models import Lora as LoraRow
from app.loras.models import LoraFile
from app.settings import REPOSITORY, get_settings
from app.storage import get_store
from tests.worker.random_modules import KINDS, Maker
from worker.handlers import lora_tools
from worker.handlers.context import JobContext, Stopped
from worker.lease import Lease
from worker.ml.lora_files.modules import Lora, change
from worker.ml.lora_files.tools.files import compare, read_whole
from worker.ml.lora_files.write import write_lora
from worker.runner import run_next

EMOJI = architectures()["emoji-64"]
PARTS = ("attn2.to_k", "attn2.to_v", "resnets.0.conv1")
Json = dict[str, Any]


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """Workers' folders lie under the current one."""
    monkeypatch.chdir(tmp_path)


def random_lora(kind: str, seed: int = 0, parts=PARTS) -> Lora:
    maker = Maker(seed + 100 * KINDS.index(kind))
    weights = {path: shape for path, shape in EMOJI.weights.items() if path.endswith(parts)}
    return Lora({path: getattr(maker, kind)(torch.ones(shape)) for path, shape in weights.items()})


@pytest.fixture
def upload(client, tmp_path) -> Callable[..., tuple[Json, Lora]]:
    """Upload a random LoRA; the answer, and the LoRA."""

    def send(kind="lora", seed=0, *, parts=PARTS, dtype=torch.float32, layout="kohya", **fields):
        lora = random_lora(kind, seed, parts)
        path = tmp_path / "sent" / f"{kind}-{seed}.safetensors"
        path.parent.mkdir(exist_ok=True)
        words = {"ss_base_model_version": "emoji-64", "modelspec.trigger_phrase": f"word{seed}"}
        write_lora(path, lora, EMOJI.shape, words, dtype, layout)
        files = {"file": (path.name, path.read_bytes(), "application/octet-stream")}
        answer = client.post("/v1/loras", files=files, data=fields)
        assert answer.status_code == 201, answer.text
        return answer.json(), lora

    return send


@pytest.fixture
def tool(client) -> Callable[..., Json]:
    """Ask for a tool and run it to its end."""

    def run(**request) -> Json:
        answer = client.post("/v1/lora-tools", json=request)
        assert answer.status_code == 201, answer.text
        assert run_next("ingest")
        ended: Json = client.get(f"/v1/lora-tools/{answer.json()['id']}").json()
        return ended

    return run


@pytest.fixture
def stored(client, tmp_path) -> Callable[[str], Lora]:
    """A LoRA's file as it is downloaded, parsed."""

    def fetch(lora_id: str, layout: str | None = None) -> Lora:
        query = f"?format={layout}" if layout else ""
        answer = client.get(f"/v1/loras/{lora_id}/download{query}")
        assert answer.status_code == 302, answer.text
        path = tmp_path / "fetched.safetensors"
        path.write_bytes(httpx.get(answer.headers["Location"]).content)
        return read_whole(path, EMOJI)[0]

    return fetch


def test_a_resized_lora_is_published_with_its_measured_error(client, upload, tool, stored):
    source, lora = upload("loha", 1, name="ink", dtype=torch.float16)
    ended = tool(operation="resize", lora="ink", rank=3)
    assert ended["status"] == "succeeded", ended["error"]
    assert ended["inputs"][0]["lora"] == source["id"]
    made = client.get(f"/v1/loras/{ended['lora']}").json()
    assert made["source"] == "tool"
    assert made["name"] == "ink, rank 3"
    assert made["rank"] == 3
    assert made["layout"] == "kohya"
    assert made["trigger_word"] == "word1"
    assert made["file_metadata"]["ss_network_dim"] == "3"
    assert made["report"]["usable"]
    found = stored(made["id"])
    error = compare(lora, found).error
    # The upload was rounded to half precision itself.
    assert ended["report"]["error"] == pytest.approx(error, rel=0.01)
    assert ended["report"]["ranks"] == {"min": 3, "max": 3}
    assert set(ended["report"]["modules"]) == set(lora.modules)
    assert ended["progress"]["fraction"] == 1.0
    assert ended["usage"]["gpu_seconds"] == 0


def test_a_merge_is_the_weighted_sum(client, upload, tool, stored):
    first, one = upload("lora", 1, name="ink", default_weight=0.5)
    second, two = upload("tucker", 2, name="fur")
    inputs = [{"lora": first["id"]}, {"lora": "fur", "weight": -1.5}]
    ended = tool(operation="merge", loras=inputs, precision="float32", name="both")
    assert ended["status"] == "succeeded", ended["error"]
    assert [(each["lora"], each["weight"]) for each in ended["inputs"]] == [
        (first["id"], 0.5),
        (second["id"], -1.5),
    ]
    assert ended["report"]["error"] < 1e-6
    found = stored(ended["lora"])
    for path, module in found.modules.items():
        wanted = 0.5 * one.modules[path].delta() - 1.5 * two.modules[path].delta()
        assert float((module.delta() - wanted).norm() / wanted.norm()) < 1e-6
    assert found.metadata["modelspec.merged_from"] == "ink, fur"
    assert client.get(f"/v1/loras/{ended['lora']}").json()["name"] == "both"


@pytest.fixture
def tuned_catalog(tmp_path, monkeypatch):
    """A catalog with a second base: the small one with a rank-2 change; (path, change)."""
    folder = tmp_path / "assets"
    folder.mkdir()
    for name in ("emoji-64", "emoji-tuned"):
        shutil.copytree(REPOSITORY / "assets" / "emoji-64", folder / name)
    file = "unet/diffusion_pytorch_model.safetensors"
    before = load_file(folder / "emoji-64" / file)
    before = {name: tensor.float() for name, tensor in before.items()}
    after = {name: tensor.clone() for name, tensor in before.items()}
    generator = torch.Generator().manual_seed(9)
    added = {}
    for name, tensor in after.items():
        if name.endswith("attn1.to_q.weight"):
            up = torch.randn(tensor.shape[0], 2, generator=generator)
            delta = 0.02 * up @ torch.randn(2, tensor.shape[1], generator=generator)
            tensor += delta
            added[f"unet.{name.removesuffix('.weight')}"] = delta
    save_file(before, folder / "emoji-64" / file)
    save_file(after, folder / "emoji-tuned" / file)
    entry = """
[[base_models]]
id = "{0}"
title = "{0}"
source = "{0}"
source_kind = "folder"
architecture = "{1}"
native_resolution = 64
"""
    text = entry.format("emoji-64", "emoji-64") + entry.format("emoji-tuned", "emoji-64")
    text += entry.format("other", "sdxl") + "\n[[captioners]]\nid='x'\ntitle='x'\nsource='x'\n"
    (folder / "catalog.toml").write_text(text + "source_kind='folder'\n")
    monkeypatch.setenv("LORAWRIGHT_CATALOG_PATH", str(folder / "catalog.toml"))
    get_settings.cache_clear()
    load_catalog.cache_clear()
    yield added
    monkeypatch.undo()
    get_settings.cache_clear()
    load_catalog.cache_clear()


def test_a_fine_tunes_change_is_extracted(client, tuned_catalog, tool, stored):
    ended = tool(
        operation="extract",
        base_model="emoji-64",
        fine_tuned="emoji-tuned",
        rank=2,
        targets="attention",
        precision="float32",
    )
    assert ended["status"] == "succeeded", ended["error"]
    assert ended["report"]["error"] < 1e-4
    found = stored(ended["lora"])
    assert found.modules.keys() == tuned_catalog.keys()
    for path, delta in tuned_catalog.items():
        error = (found.modules[path].delta() - delta).norm() / delta.norm()
        assert float(error) < 1e-4
    made = client.get(f"/v1/loras/{ended['lora']}").json()
    assert made["base_model"] == "emoji-64"
    assert made["name"] == "emoji-tuned over emoji-64"


@pytest.mark.usefixtures("tuned_catalog")
def test_extracting_from_equal_base_models_fails_with_the_reason(client, tool):
    ended = tool(
        operation="extract", base_model="emoji-64", fine_tuned="emoji-64", keep=0.9, rank=8
    )
    assert ended["status"] == "failed"
    assert ended["error"]["code"] == "nothing_to_extract"
    assert client.get("/v1/loras").json()["data"] == []
    other = {"operation": "extract", "base_model": "emoji-64", "fine_tuned": "other", "rank": 4}
    answer = client.post("/v1/lora-tools", json=other)
    assert (answer.status_code, answer.json()["code"]) == (422, "lora_incompatible")


@pytest.fixture
def no_wait(monkeypatch):
    """Downloads do not wait for conversions."""
    monkeypatch.setenv("LORAWRIGHT_LORA_CONVERSION_WAIT_SECONDS", "0")
    get_settings.cache_clear()
    yield
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.mark.usefixtures("no_wait")
def test_a_conversion_becomes_a_file_of_its_lora(client, upload, tool, stored):
    source, lora = upload("lora", 3, name="ink")
    ended = tool(operation="convert", lora="ink", layout="diffusers")
    assert ended["status"] == "succeeded", ended["error"]
    assert ended["lora"] == source["id"]
    assert ended["report"]["error"] < 1e-6
    assert compare(lora, stored(source["id"], "diffusers")).error < 1e-6
    with transaction() as session:
        file = session.get_one(LoraFile, (source["id"], "diffusers"))
        assert get_store().sha256(file.object_key) == file.sha256
    assert len(client.get("/v1/loras").json()["data"]) == 1


@pytest.mark.usefixtures("no_wait")
def test_a_download_that_cannot_wait_says_so_and_asking_again_starts_no_second_one(client, upload):
    source, _ = upload("lora", 4, name="ink/1")
    path = f"/v1/loras/{source['id']}/download?format=peft"
    for _ in range(3):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "lora_conversion_pending")
        assert answer.json()["retryable"] is True
        assert int(answer.headers["Retry-After"]) > 0
    [job] = client.get("/v1/lora-tools").json()["data"]
    assert job["request"]["layout"] == "peft"
    assert run_next("ingest")
    answer = client.get(path)
    assert answer.status_code == 302
    packed = httpx.get(answer.headers["Location"])
    assert "ink_1.zip" in answer.headers["Location"]
    names = zipfile.ZipFile(io.BytesIO(packed.content)).namelist()
    assert names == ["adapter_model.safetensors", "adapter_config.json"]


def test_many_who_ask_at_once_wait_for_one_conversion(client, upload):
    source, _ = upload("lora", 5)
    path = f"/v1/loras/{source['id']}/download?format=diffusers"
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(client.get(path))) for _ in range(6)]
    for thread in threads:
        thread.start()
    while not run_next("ingest"):
        pass
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [302] * 6
    assert len({answer.headers["Location"].split("?")[0] for answer in answers}) == 1
    assert len(client.get("/v1/lora-tools").json()["data"]) == 1


@pytest.mark.usefixtures("no_wait")
def test_a_layout_that_cannot_say_it_is_a_422_and_is_not_tried_twice(client, upload):
    source, _ = upload("loha", 6)
    path = f"/v1/loras/{source['id']}/download?format=diffusers"
    assert client.get(path).status_code == 503
    assert run_next("ingest")
    for _ in range(2):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (422, "lora_layout_unsupported")
        assert "LoHa is not written in the diffusers layout" in answer.json()["detail"]
    assert len(client.get("/v1/lora-tools").json()["data"]) == 1


def test_a_file_that_reads_back_otherwise_makes_nothing(client, upload, tool):
    source, _ = upload("lora", 7)
    with transaction() as session:
        key = session.get_one(LoraRow, source["id"]).object_key
    get_store().put_bytes(key, b"other bytes", "application/octet-stream")
    ended = tool(operation="resize", lora=source["id"], rank=1)
    # It is retryable, so it waits for its next attempt.
    assert ended["status"] == "queued"
    assert ended["lora"] is None
    get_store().delete([key])
    ended = tool(operation="resize", lora=source["id"], rank=1)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "input_missing")
    assert [lora["id"] for lora in client.get("/v1/loras").json()["data"]] == [source["id"]]


def test_dora_in_a_merge_fails_with_the_reason(upload, tool):
    upload("dora", 8, name="silk")
    upload("lora", 9, name="ink")
    ended = tool(operation="merge", loras=[{"lora": "silk"}, {"lora": "ink"}])
    assert (ended["status"], ended["error"]["code"]) == ("failed", "lora_variant_unsupported")
    assert "silk is DoRA" in ended["error"]["message"]


def test_a_resized_dora_keeps_its_magnitudes(upload, tool, stored):
    _, lora = upload("dora", 10, name="silk")
    ended = tool(operation="resize", lora="silk", keep=1.0)
    found = stored(ended["lora"])
    for path, module in lora.modules.items():
        weight = torch.ones(EMOJI.weights[path])
        wanted = change(module, weight)
        assert float((change(found.modules[path], weight) - wanted).norm()) < 1e-4


def test_a_canceled_tool_stops_between_modules(client, upload):
    upload("lora", 12, name="ink")
    request = {"operation": "resize", "lora": "ink", "rank": 1}
    job = client.post("/v1/lora-tools", json=request).json()
    with transaction() as session:
        claim = claiming.claim(session, "ingest", "test")
    folder = Path("canceled").resolve()
    folder.mkdir()
    with Lease(claim) as lease:
        context = JobContext(claim, lease, folder)
        checks = []

        def checked() -> None:
            checks.append(1)
            if len(checks) == 5:
                client.post(f"/v1/lora-tools/{job['id']}/cancel")
                while not lease.should_stop():
                    pass
            JobContext.check(context)

        context.check = checked
        with pytest.raises(Stopped):
            lora_tools.run(context)
    # One check for the input, then one a module.
    assert len(checks) == 5


def _publish(claim, publish):
    """As the runner does."""
    with transaction() as session:
        lifecycle.hold(session, claim)
        publish(session)


def test_a_lost_attempt_publishes_nothing(client, upload):
    upload("lora", 11, name="ink")
    request = {"operation": "resize", "lora": "ink", "rank": 1}
    job = client.post("/v1/lora-tools", json=request).json()
    with transaction() as session:
        claim = claiming.claim(session, "ingest", "test")
    folder = Path("lost").resolve()
    folder.mkdir()
    with Lease(claim) as lease:
        publish = lora_tools.run(JobContext(claim, lease, folder))
        with transaction() as session:
            lifecycle.release(session, claim, gpu_seconds=0, reason="worker_stopping")
        with pytest.raises(LeaseLost, match=job["id"]):
            _publish(claim, publish)
    assert len(client.get("/v1/loras").json()["data"]) == 1
