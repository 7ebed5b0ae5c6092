"""From a folder of pictures to a LoRA to pictures, through the API, by a real worker."""

import hashlib
import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from app.generations.schemas import GenerationCreate
from app.jobs.requests import JobRequest
from tests.e2e import style_distance
from tests.e2e.conftest import EXAMPLES, Road, Service

SEEDS = (20, 120, 220)
SUBJECTS = json.loads((EXAMPLES / "holdout_prompts.json").read_text())["prompts"][:9]


def draw(service: Service, **request) -> list[Image.Image]:
    job = service.post("/v1/generations", request)
    return drawn(service, job["id"])


def drawn(service: Service, job_id: str) -> list[Image.Image]:
    job = service.succeed(f"/v1/generations/{job_id}")
    return [
        Image.open(io.BytesIO(httpx.get(image["url"]).raise_for_status().content))
        for image in job["images"]
    ]


def pixels(image: Image.Image) -> bytes:
    return np.asarray(image.convert("RGB")).tobytes()


def test_the_captioner_names_the_pictures_and_hand_captions_stay(service: Service, road: Road):
    images = service.get(f"/v1/datasets/{road.dataset}/images?limit=100")["data"]
    by_hand = {i["filename"]: i["caption"] for i in images if i["caption_source"] == "hand"}
    assert by_hand["fox.png"] == "fox, inkstyle"
    assert len(by_hand) == 5
    assert road.captioning["images_captioned"] == 35
    named = [i for i in images if i["caption_source"] == "auto"]
    assert all(i["caption"].endswith(", inkstyle") for i in named)
    right = sum(
        i["caption"] == f"{Path(i['filename']).stem.replace('-', ' ')}, inkstyle" for i in named
    )
    assert right >= 0.6 * len(named), "the captioner's own aim is 60% of what it has seen"
    assert all(i["measures"] is not None and i["thumbnail_url"] for i in images)


def test_the_loss_on_held_out_noise_falls(service: Service, road: Road):
    rows = service.get(f"/v1/trainings/{road.training['id']}/metrics?limit=1000")["data"]
    steps = [row["step"] for row in rows]
    total = road.training["progress"]["total_steps"]
    assert steps == list(range(total + 1)), "one row a step, and one for the start"
    validation = [row["validation_loss"] for row in rows if row["validation_loss"] is not None]
    assert len(validation) >= 3
    assert validation[-1] < 0.95 * validation[0]
    assert all(np.isfinite(row["loss"]) for row in rows[1:])


def test_the_published_lora_is_the_recommended_checkpoint(service: Service, road: Road):
    checkpoints = service.get(f"/v1/trainings/{road.training['id']}/checkpoints")["data"]
    best = [c for c in checkpoints if c["recommended"]]
    assert len(best) == 1
    assert best[0]["validation_loss"] == min(c["validation_loss"] for c in checkpoints)
    assert all(c["samples"][0]["prompt"] == "red heart, inkstyle" for c in checkpoints)
    assert httpx.get(best[0]["samples"][0]["url"]).content.startswith(b"\x89PNG")
    lora = service.get(f"/v1/loras/{road.lora}")
    assert lora["checkpoint"] == best[0]["id"]
    assert lora["report"]["usable"]
    assert lora["report"]["hashes"]["model_hash_matches"]
    assert lora["report"]["hashes"]["legacy_hash_matches"]
    other = next(c for c in checkpoints if not c["recommended"])
    path = f"/v1/trainings/{road.training['id']}/checkpoints/{other['id']}/publish"
    published = service.post(path, {"name": "earlier"})
    assert published["sha256"] == other["sha256"]


def test_the_download_is_a_kohya_file_with_its_metadata(
    service: Service, road: Road, tmp_path: Path
):
    from safetensors import safe_open

    answer = service.client.get(f"/v1/loras/{road.lora}/download")
    assert answer.status_code == 302
    data = httpx.get(answer.headers["location"]).content
    assert hashlib.sha256(data).hexdigest() == service.get(f"/v1/loras/{road.lora}")["sha256"]
    path = tmp_path / "lora.safetensors"
    path.write_bytes(data)
    with safe_open(path, "pt") as opened:
        names = list(opened.keys())
        metadata = opened.metadata()
    assert all(name.startswith("lora_unet_") for name in names)
    assert {name.rpartition(".")[2] for name in names} == {"weight", "alpha"}
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["modelspec.trigger_phrase"] == "inkstyle"
    assert metadata["sshs_model_hash"]


def test_the_style_comes_with_the_lora_and_with_its_weight(service: Service, road: Road):
    """Same prompts, trigger word included, same seeds: only the LoRA differs."""
    style_set = [Image.open(path) for path in sorted((EXAMPLES / "ink-style").glob("*.png"))]
    style = style_distance.mean_features(style_set)
    by_weight: dict[float, list[list[Image.Image]]] = {}
    for weight in (0.0, 0.5, 1.0):
        loras = [{"lora": road.lora, "weight": weight}] if weight else []
        # All at once, so that the worker may draw many as one batch.
        jobs = [
            [
                service.post(
                    "/v1/generations",
                    {"prompt": f"{subject}, inkstyle", "loras": loras, "seed": seed},
                )["id"]
                for subject in SUBJECTS
            ]
            for seed in SEEDS
        ]
        by_weight[weight] = [[drawn(service, job)[0] for job in row] for row in jobs]
    unit = style_distance.spread([image for row in by_weight[0.0] for image in row])
    found = {
        weight: np.array(
            [
                style_distance.distance(style_distance.mean_features(row), style, unit)
                for row in rows
            ]
        )
        for weight, rows in by_weight.items()
    }
    means = {weight: float(values.mean()) for weight, values in found.items()}
    print({w: (round(m, 3), found[w].round(3).tolist()) for w, m in means.items()})
    assert means[1.0] <= 0.7 * means[0.0], means
    assert means[0.0] > means[0.5] > means[1.0], means
    spread = max(float(values.std(ddof=1)) for values in found.values())
    assert means[0.0] - means[1.0] > 2 * spread, (means, spread)


def test_weight_zero_is_no_lora_to_the_bit_and_the_base_is_unchanged(service: Service, road: Road):
    request = {"prompt": "red heart, inkstyle", "seed": 7}
    [before] = draw(service, **request)
    [zero] = draw(service, **request, loras=[{"lora": road.lora, "weight": 0.0}])
    [full] = draw(service, **request, loras=[{"lora": road.lora, "weight": 1.0}])
    [after] = draw(service, **request)
    assert pixels(before) == pixels(zero) == pixels(after)
    assert pixels(full) != pixels(before)


def test_every_image_of_a_request_has_its_own_seed_and_receipt(service: Service, road: Road):
    job = service.post(
        "/v1/generations",
        {
            "prompt": "red apple, inkstyle <lora:ink:0.8>",
            "seed": 40,
            "num_images": 3,
            "format": "webp",
        },
    )
    job = service.succeed(f"/v1/generations/{job['id']}")
    assert [image["seed"] for image in job["images"]] == [40, 41, 42]
    [use] = job["loras"]
    assert (use["weight"], use["unmatched"]) == (0.8, [])
    assert use["matched"] > 0
    receipt = job["receipt"]
    assert receipt["loras"][0]["sha256"] == service.get(f"/v1/loras/{road.lora}")["sha256"]
    assert len(receipt["base_model_sha256"]) == 64
    data = httpx.get(job["images"][0]["url"]).content
    assert hashlib.sha256(data).hexdigest() == job["images"][0]["sha256"]
    assert b"trainedAlgorithmicMedia" in data


def test_each_picture_can_be_made_again_alone_by_the_request_it_carries(
    service: Service, road: Road
):
    weight = {"unet": 0.9, "text_encoder": 0.4}
    request = {
        "prompt": "red apple, inkstyle",
        "negative_prompt": "blue",
        "loras": [{"lora": road.lora, "weight": weight, "end": 0.8}],
        "steps": 9,
        "num_images": 2,
        "init_image": first_picture(service),
    }
    job = service.post("/v1/generations", request)
    job = service.succeed(f"/v1/generations/{job['id']}")
    for image in job["images"]:
        given = set(GenerationCreate.model_fields) - set(JobRequest.model_fields)
        assert set(image["request"]) == given, "nothing is left to a default"
        [again] = draw(service, **image["request"])
        first = Image.open(io.BytesIO(httpx.get(image["url"]).content))
        # Alone it is another batch, whose products may be rounded in another order.
        difference = np.asarray(again, dtype=int) - np.asarray(first, dtype=int)
        assert abs(difference).max() <= 2


def first_picture(service: Service) -> str:
    """A picture of the ink style's dataset, to start from."""
    datasets = service.get("/v1/datasets")["data"]
    dataset = next(each for each in datasets if each["trigger_word"] == "inkstyle")
    image: str = service.get(f"/v1/datasets/{dataset['id']}/images")["data"][0]["id"]
    return image


@pytest.fixture
def second_lora(service: Service) -> str:
    """Another style, trained just enough to be a LoRA."""
    dataset = service.upload_example("riso-style", "risostyle")
    training = service.post(
        "/v1/trainings",
        {"dataset": dataset, "name": "riso", "params": {"seed": 1, "max_steps": 12}},
    )
    lora: str = service.succeed(f"/v1/trainings/{training['id']}")["lora"]
    return lora


def test_two_loras_together_differ_from_each_alone(service: Service, road: Road, second_lora: str):
    request = {"prompt": "cat face, inkstyle risostyle", "seed": 3}
    sets = [
        [{"lora": road.lora, "weight": 0.7}],
        [{"lora": second_lora, "weight": 0.7}],
        [{"lora": road.lora, "weight": 0.7}, {"lora": second_lora, "weight": 0.7}],
    ]
    drawn = {pixels(draw(service, **request, loras=loras)[0]) for loras in sets}
    assert len(drawn) == 3


def test_events_tell_the_whole_story_in_order_and_can_be_resumed(service: Service, road: Road):
    path = f"/v1/trainings/{road.training['id']}/events"
    events = read_events(service, path)
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    types = {event["event"] for event in events}
    assert types == {"status", "progress", "metrics", "sample", "checkpoint", "log"}
    assert events[-1]["data"]["status"] == "succeeded"
    assert all(event["data"]["created_at"].endswith("Z") for event in events)
    middle = len(events) // 2
    resumed = read_events(service, path, {"Last-Event-ID": str(middle)})
    assert resumed == events[middle:]


def read_events(service: Service, path: str, headers: dict[str, str] | None = None) -> list[dict]:
    events = []
    with service.client.stream("GET", path, headers=headers or {}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        current: dict = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                current["id"] = int(value)
            elif name == "event":
                current["event"] = value
            elif name == "data":
                current["data"] = json.loads(value)
            elif not line and current:
                events.append(current)
                current = {}
    return events
