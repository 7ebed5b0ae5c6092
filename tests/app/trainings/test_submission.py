"""What a training freezes when it is submitted, and what it refuses."""

import pytest

from app.database import new_id, transaction
from app.jobs.models import Job
from app.loras import service as loras
from app.trainings.models import Checkpoint, Training
from tests.pictures import picture


def submit(client, dataset_id: str, **fields):
    request = {"dataset": dataset_id, "name": "ink", "base_model": "emoji-64", **fields}
    return client.post("/v1/trainings", json=request)


def test_an_empty_dataset_cannot_be_trained(client, make_dataset):
    answer = submit(client, make_dataset())
    assert answer.status_code == 422
    assert answer.json()["code"] == "dataset_empty"
    assert client.get("/v1/jobs").json()["data"] == []


def test_the_layers_of_parameters_end_with_the_customers(client, make_dataset):
    answer = submit(client, make_dataset(pictures=2), params={"rank": 8}).json()
    params = answer["params"]
    assert params["rank"] == 8, "the customer's"
    assert params["resolution"] == 64, "the base model's"
    assert (params["num_repeats"], params["epochs"]) == (4, 20), (
        "the base model's, not the preset's"
    )
    assert params["keep_tokens"] == 1, "the default"
    assert isinstance(params["seed"], int), "drawn when none is given"


def test_the_spec_holds_the_images_with_their_hashes_and_captions(client, make_dataset):
    dataset_id = make_dataset(pictures=2)
    [newest, _] = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    client.patch(f"/v1/datasets/{dataset_id}/images/{newest['id']}", json={"caption": "mine"})
    training = submit(client, dataset_id).json()
    spec = client.get(f"/v1/trainings/{training['id']}/spec").json()
    by_id = {image["image"]: image for image in spec["images"]}
    assert by_id[newest["id"]]["caption"] == "mine"
    assert by_id[newest["id"]]["sha256"] == newest["sha256"]
    others = [i["caption"] for i in spec["images"] if i["image"] != newest["id"]]
    assert others == ["inkstyle, in the style of inkstyle"], "the template around nothing"
    # Later edits change nothing of it.
    client.patch(f"/v1/datasets/{dataset_id}/images/{newest['id']}", json={"caption": "other"})
    assert client.get(f"/v1/trainings/{training['id']}/spec").json() == spec


def test_excluded_images_are_left_out(client, make_dataset):
    dataset_id = make_dataset(pictures=2)
    [newest, oldest] = client.get(f"/v1/datasets/{dataset_id}/images").json()["data"]
    client.patch(f"/v1/datasets/{dataset_id}/images/{newest['id']}", json={"excluded": True})
    training = submit(client, dataset_id).json()
    spec = client.get(f"/v1/trainings/{training['id']}/spec").json()
    assert [image["image"] for image in spec["images"]] == [oldest["id"]]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"params": {"rank": 0}}, "/params/rank"),
        ({"params": {"ranks": 4}}, "/params/ranks"),
        ({"params": {"learning_rate": "fast"}}, "/params/learning_rate"),
        ({"params": {"max_steps": 10, "lr_warmup_steps": 10}}, "/params"),
        ({"params": {"variant": "dorra"}}, "/params/variant"),
        ({"params": {"prior_preservation": {}}}, "/params/prior_preservation/dataset"),
        ({"params": {"prior_preservation": {"weight": 0}}}, "/params/prior_preservation/weight"),
        ({"params": {"lr_warmup_steps": 20}}, "/params/lr_warmup_steps"),
        ({"base_model": "sd-9"}, "/base_model"),
        ({"preset": "oil"}, "/preset"),
        ({"name": " "}, "/name"),
        ({"sample_prompts": ["x"] * 9}, "/sample_prompts"),
        ({"params": {"epochs": 1000, "num_repeats": 1000, "batch_size": 1}}, "/params/epochs"),
    ],
)
def test_a_wrong_value_is_named(client, make_dataset, fields, pointer):
    answer = submit(client, make_dataset(pictures=1), **fields)
    assert answer.status_code == 422, answer.text
    assert any(e["pointer"].startswith(pointer) for e in answer.json()["errors"]), answer.text
    assert client.get("/v1/trainings").json()["data"] == []


def test_a_dataset_outside_its_tasks_range_is_warned_of(client, make_dataset):
    training = submit(client, make_dataset(pictures=2)).json()
    assert any("2 images" in warning for warning in training["warnings"])
    assert any("no caption" in warning for warning in training["warnings"])


def test_a_queued_training_is_canceled_at_once_and_can_be_retried(client, make_dataset):
    training = submit(client, make_dataset(pictures=1), metadata={"order": "7"}).json()
    path = f"/v1/trainings/{training['id']}"
    assert client.post(f"{path}/retry").status_code == 409
    assert client.post(f"{path}/cancel").json()["status"] == "canceled"
    assert client.post(f"{path}/cancel").json()["status"] == "canceled"
    retried = client.post(f"{path}/retry").json()
    assert (retried["status"], retried["retry_of"]) == ("queued", training["id"])
    assert retried["metadata"] == {"order": "7"}
    specs = [client.get(f"/v1/trainings/{t['id']}/spec").json() for t in (training, retried)]
    assert specs[0] == specs[1]


def test_presets_show_every_value_on_a_base(client):
    presets = client.get("/v1/presets", params={"base_model": "emoji-64"}).json()["data"]
    assert [preset["id"] for preset in presets] == ["style", "product", "character", "photography"]
    assert all(preset["params"]["resolution"] == 64 for preset in presets)
    assert all(preset["passes"] == 80 for preset in presets), "4 × 20, as the base says"


def test_presets_are_told_for_a_number_of_images(client):
    def told(**query):
        answer = client.get("/v1/presets", params={"base_model": "sdxl-1.0", **query}).json()
        return {p["id"]: (p["images"], p["passes"]) for p in answer["data"]}

    fewest = {"style": (50, 100), "product": (20, 120), "character": (30, 120)}
    assert told() == {**fewest, "photography": (200, 40)}
    assert told(images=200)["style"] == (200, 50)
    assert client.get("/v1/presets", params={"images": 0}).status_code == 422


def test_a_training_gets_what_the_preset_says_for_its_number_of_images(client, make_dataset):
    dataset = make_dataset(pictures=3)
    training = submit(client, dataset, base_model="sdxl-1.0").json()
    presets = client.get("/v1/presets", params={"base_model": "sdxl-1.0", "images": 3}).json()
    told = presets["data"][0]["params"]
    assert training["params"] == {**told, "seed": training["params"]["seed"]}


def test_class_pictures_are_frozen_beside_the_subjects(client, make_dataset):
    subject = make_dataset(pictures=2)
    of_class = make_dataset(pictures=3, trigger_word="dog", caption_template="a {trigger}")
    prior = {"dataset": of_class, "weight": 0.5}
    training = submit(client, subject, params={"prior_preservation": prior}).json()
    spec = client.get(f"/v1/trainings/{training['id']}/spec").json()
    marked = [image["regularization"] for image in spec["images"]]
    assert marked == [False, False, True, True, True]
    assert {image["caption"] for image in spec["images"][2:]} == {"a dog"}
    assert spec["params"]["prior_preservation"] == prior
    # tests.pictures draws the same pictures for both.
    assert any("2 of 3 class pictures" in warning for warning in training["warnings"])


def test_class_pictures_need_a_dataset_of_their_own_with_pictures(
    client, other_client, make_dataset
):
    subject, empty = make_dataset(pictures=1), make_dataset()
    request = {"name": "theirs", "task": "style", "trigger_word": "dog"}
    others = other_client.post("/v1/datasets", json=request).json()["id"]
    for wanted, status, code in [
        (subject, 422, "invalid_request"),
        (empty, 422, "dataset_empty"),
        ("ds_nowhere", 404, "not_found"),
        (others, 404, "not_found"),
    ]:
        answer = submit(client, subject, params={"prior_preservation": {"dataset": wanted}})
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        if status == 422:
            [problem] = answer.json()["errors"]
            assert problem["pointer"] == "/params/prior_preservation/dataset"
    assert client.get("/v1/trainings").json()["data"] == []


@pytest.fixture
def published(client, make_dataset):
    """A LoRA published from a training with these parameters; its row."""

    def publish(**params):
        training_id = submit(client, make_dataset(pictures=1), params=params).json()["id"]
        with transaction() as session:
            training = session.get_one(Training, training_id)
            account_id = session.get_one(Job, training_id).account_id
            checkpoint = Checkpoint(
                id=new_id("ckpt"),
                training_id=training_id,
                epoch=1,
                step=1,
                object_key=f"accounts/{account_id}/jobs/{training_id}/1/lora.safetensors",
                sha256="ab" * 32,
                bytes=1,
                file_metadata={},
                samples=[],
            )
            session.add(checkpoint)
            session.flush()
            return loras.publish(session, account_id, training, checkpoint, name="first")

    return publish


def test_a_training_goes_on_from_a_lora_as_that_lora_was_made(client, make_dataset, published):
    lora = published(rank=8, alpha=4, target="full", variant="dora")
    dataset = make_dataset(pictures=1)
    for reference in (lora.id, "first"):
        training = submit(client, dataset, from_lora=reference).json()
        assert training["from_lora"] == lora.id
        told = {name: training["params"][name] for name in ("rank", "alpha", "target", "variant")}
        assert told == {"rank": 8, "alpha": 4.0, "target": "full", "variant": "dora"}
    spec = client.get(f"/v1/trainings/{training['id']}/spec").json()
    assert spec["warm_start"] == {
        "lora": lora.id,
        "sha256": lora.sha256,
        "object_key": lora.object_key,
    }


def test_a_training_from_nothing_says_so(client, make_dataset):
    training = submit(client, make_dataset(pictures=1)).json()
    assert training["from_lora"] is None
    assert client.get(f"/v1/trainings/{training['id']}/spec").json()["warm_start"] is None


def test_a_lora_to_go_on_from_must_fit(client, other_client, make_dataset, published):
    lora, dataset = published(rank=8), make_dataset(pictures=1)
    other = submit(client, dataset, from_lora=lora.id, params={"rank": 16})
    assert other.status_code == 422
    [problem] = other.json()["errors"]
    assert problem["pointer"] == "/params/rank"
    assert "rank is 16; the LoRA to go on from has 8" in problem["detail"]
    elsewhere = submit(client, dataset, from_lora=lora.id, base_model="sdxl-1.0")
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (422, "lora_incompatible")
    assert submit(client, dataset, from_lora="lora_nowhere").status_code == 404
    request = {"name": "theirs", "task": "style", "trigger_word": "dog"}
    theirs = other_client.post("/v1/datasets", json=request).json()["id"]
    files = [("files", ("1.png", picture(1), "image/png"))]
    other_client.post(f"/v1/datasets/{theirs}/images", files=files)
    assert submit(other_client, theirs, from_lora=lora.id).status_code == 404


def test_a_training_whose_spec_is_older_than_warm_starts_is_still_read(client, make_dataset):
    training = submit(client, make_dataset(pictures=1)).json()
    with transaction() as session:
        row = session.get_one(Training, training["id"])
        row.spec = {name: value for name, value in row.spec.items() if name != "warm_start"}
    assert client.get(f"/v1/trainings/{training['id']}").json()["from_lora"] is None
