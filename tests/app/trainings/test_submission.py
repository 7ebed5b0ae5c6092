"""What a training freezes when it is submitted, and what it refuses."""

import pytest


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
        ({"params": {"variant": "dora"}}, "/params/variant"),
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
