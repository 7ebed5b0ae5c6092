"""Drawn pictures that are refused are neither stored nor shown."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from starlette.testclient import TestClient
from transformers import CLIPConfig, CLIPImageProcessor

from app.content import rules
from app.content.rules import ContentCheck
from app.settings import get_settings
from app.storage import get_store
from worker import runner
from worker.handlers import made_pictures
from worker.ml.inference.safety import SafetyChecker

GENERATION = {"prompt": "a red apple", "base_model": "emoji-64", "steps": 2, "previews": 1}


class NoPictures(ContentCheck):
    """Refuses whatever was drawn."""

    def made(self, image: Image.Image) -> str | None:
        assert image.mode == "RGB"
        return "everything"


@pytest.fixture
def ruled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    def set_rules(**fields: Any) -> None:
        changed = get_settings().model_copy(update=fields)
        for module in (rules, made_pictures):
            monkeypatch.setattr(module, "get_settings", lambda: changed)
        rules._own_check.cache_clear()
        made_pictures._safety_checker.cache_clear()

    yield set_rules
    rules._own_check.cache_clear()
    made_pictures._safety_checker.cache_clear()


@pytest.fixture(scope="module")
def checkers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two small safety checkers: one that finds every picture near a concept, and one none."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = CLIPConfig(vision_config=vision, projection_dim=8)
    torch.manual_seed(1)
    folders = {}
    for name, threshold in (("strict", -2.0), ("lenient", 2.0)):
        checker = StableDiffusionSafetyChecker(config)
        checker.concept_embeds_weights.data.fill_(threshold)
        checker.special_care_embeds_weights.data.fill_(2.0)
        folder = tmp_path_factory.mktemp(name)
        checker.save_pretrained(folder)
        size = {"shortest_edge": 32}
        CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
        folders[name] = str(folder)
    return folders


def draw(client: TestClient, path: str = "generations", **fields: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/{path}", json={**GENERATION, **fields})
    assert answer.status_code == 201, answer.text
    assert runner.run_next("generate")
    done: dict[str, Any] = client.get(f"/v1/{path}/{answer.json()['id']}").json()
    return done


def check_nothing_was_shown(client: TestClient, job: dict[str, Any]) -> None:
    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert (job["error"]["code"], job["error"]["retryable"]) == ("image_refused", False)
    assert [key for key in get_store().list_keys("") if job["id"] in key] == []
    assert "event: sample" not in client.get(f"/v1/jobs/{job['id']}/events").text


def test_a_refused_picture_is_neither_stored_nor_shown(
    client: TestClient, ruled: Callable[..., None]
) -> None:
    ruled(content_check=f"{__name__}:NoPictures")
    check_nothing_was_shown(client, draw(client))
    grid = draw(client, "comparisons", previews=0, axes=[{"name": "seed", "values": [1, 2]}])
    check_nothing_was_shown(client, grid)


def test_the_safety_checker_sees_every_picture(
    client: TestClient, ruled: Callable[..., None], checkers: dict[str, str]
) -> None:
    ruled(safety_checker=checkers["lenient"])
    assert draw(client)["status"] == "succeeded"
    ruled(safety_checker=checkers["strict"])
    job = draw(client)
    check_nothing_was_shown(client, job)
    assert "'safety_checker'" in job["error"]["message"]


def test_the_safety_checker_leaves_the_picture_as_it_is(checkers: dict[str, str]) -> None:
    image = Image.new("RGB", (40, 50), (10, 200, 30))
    before = image.tobytes()
    assert SafetyChecker(checkers["strict"], torch.device("cpu")).refuses(image)
    assert not SafetyChecker(checkers["lenient"], torch.device("cpu")).refuses(image)
    assert image.tobytes() == before


def test_a_waiting_prompt_is_refused_by_a_newer_rule(
    client: TestClient, ruled: Callable[..., None], tmp_path: Path
) -> None:
    waiting = client.post("/v1/generations", json=GENERATION).json()["id"]
    file = tmp_path / "rules.toml"
    file.write_text('[[rule]]\nname = "fruit"\nwords = ["apple"]\n')
    ruled(deny_list=file)
    assert runner.run_next("generate")
    job = client.get(f"/v1/generations/{waiting}").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "prompt_refused")
    assert not job["error"]["retryable"]
