"""A comparison through the runner: the grid as its cells would be alone, and a sheet."""

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.worker.handlers.test_generation import make_lora  # noqa: F401 (a fixture)
from worker import runner


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fetched(url: str) -> Image.Image:
    return Image.open(io.BytesIO(httpx.get(url).content))


def pixels(url: str):
    return np.asarray(fetched(url), dtype=np.int16)


def test_each_cell_is_what_a_generation_of_it_would_be(client, make_lora):  # noqa: F811
    lora = make_lora(5)
    shared = {"steps": 4, "loras": [{"lora": lora}]}
    request = {
        "prompt": "a red apple",
        **shared,
        "axes": [
            {"name": "weight", "values": [0, 0.8]},
            {"name": "prompt", "values": ["a red apple", "a blue car"]},
            {"name": "seed", "values": [1, 2]},
        ],
    }
    job_id = client.post("/v1/comparisons", json=request).json()["id"]
    assert runner.run_next("generate")
    job = client.get(f"/v1/comparisons/{job_id}").json()
    assert job["status"] == "succeeded", job
    assert job["progress"]["fraction"] == 1.0
    assert [image["labels"] for image in job["images"]] == [
        [f"weight {weight}", prompt, f"seed {seed}"]
        for weight in (0, 0.8)
        for prompt in ("a red apple", "a blue car")
        for seed in (1, 2)
    ]
    for number, (weight, prompt, seed) in {
        0: (0, "a red apple", 1),
        7: (0.8, "a blue car", 2),
    }.items():
        alone = {
            "prompt": prompt,
            "steps": 4,
            "seed": seed,
            "loras": [{"lora": lora, "weight": weight}],
        }
        single = client.post("/v1/generations", json=alone).json()["id"]
        assert runner.run_next("generate")
        image = client.get(f"/v1/generations/{single}").json()["images"][0]
        difference = abs(pixels(job["images"][number]["url"]) - pixels(image["url"]))
        assert difference.max() <= 3
        assert job["images"][number]["receipt"]["seed"] == seed
    # Two columns of enlarged pictures, two blocks of two rows, and their labels.
    sheet = fetched(job["sheet_url"])
    assert sheet.width > 2 * 128
    assert sheet.height > 4 * 128


def test_a_single_axis_and_pictures_of_several_sizes_of_batch(client):
    request = {
        "prompt": "a tree",
        "steps": 2,
        "axes": [{"name": "seed", "values": list(range(10))}],
    }
    job_id = client.post("/v1/comparisons", json=request).json()["id"]
    assert runner.run_next("generate")
    job = client.get(f"/v1/comparisons/{job_id}").json()
    assert [image["seed"] for image in job["images"]] == list(range(10))
    assert len({image["sha256"] for image in job["images"]}) == 10
    assert fetched(job["sheet_url"]).height > 10 * 128


def test_what_cannot_be_drawn_fails_the_job_and_says_which_cell(client):
    request = {
        "prompt": "a tree",
        "steps": 2,
        "axes": [{"name": "prompt", "values": ["fine", "a (tree:99) that is too heavy"]}],
    }
    job_id = client.post("/v1/comparisons", json=request).json()["id"]
    runner.run_next("generate")
    job = client.get(f"/v1/comparisons/{job_id}").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "prompt_invalid")
    assert "too heavy" in job["error"]["message"]
    assert job["images"] == []
    assert job["sheet_url"] is None
