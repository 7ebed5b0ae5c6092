"""What a comparison freezes, and what it refuses."""

import base64

import pytest

from app.comparisons.models import Comparison
from app.database import transaction
from tests.app.generations.test_submission import make_lora
from tests.pictures import picture


def submit(client, *axes, **fields):
    request = {"prompt": "a fox", "axes": list(axes), **fields}
    return client.post("/v1/comparisons", json=request)


def cells(answer) -> list[dict]:
    assert answer.status_code == 201, answer.text
    with transaction() as session:
        return session.get_one(Comparison, answer.json()["id"]).cells


def test_every_combination_is_a_cell_the_last_axis_fastest(client):
    answer = submit(
        client,
        {"name": "seed", "values": [1, 2]},
        {"name": "steps", "values": [4, 8, 12]},
        guidance_scale=3.0,
    )
    found = cells(answer)
    assert answer.json()["cells"] == 6
    assert [(c["request"]["seed"], c["request"]["steps"]) for c in found] == [
        (1, 4),
        (1, 8),
        (1, 12),
        (2, 4),
        (2, 8),
        (2, 12),
    ]
    assert found[0]["labels"] == ["seed 1", "4 steps"]
    assert {c["request"]["guidance_scale"] for c in found} == {3.0}


def test_without_an_axis_of_seeds_all_have_one(client):
    found = cells(submit(client, {"name": "guidance_scale", "values": [1, 4, 7.5]}))
    assert len({c["request"]["seed"] for c in found}) == 1


def test_weights_are_of_one_lora_or_of_all(client):
    a, b = make_lora("a"), make_lora("b")
    uses = [{"lora": a, "weight": 0.5}, {"lora": "b", "weight": 0.6}]
    found = cells(submit(client, {"name": "weight", "values": [0, 1], "lora": "b"}, loras=uses))
    weights = [[(use["lora"], use["weight"]) for use in c["loras"]] for c in found]
    assert weights == [[(a, 0.5), (b, 0.0)], [(a, 0.5), (b, 1.0)]]
    assert found[1]["labels"] == ["b 1"]
    found = cells(submit(client, {"name": "weight", "values": [-1, 0.25]}, loras=uses))
    assert [[use["weight"] for use in c["loras"]] for c in found] == [[-1, -1], [0.25, 0.25]]


def test_loras_can_be_an_axis_beside_their_weight_and_none(client):
    a, b = make_lora("a"), make_lora("b")
    found = cells(
        submit(
            client,
            {"name": "weight", "values": [0.5, 1]},
            {"name": "lora", "values": [a, "b", None]},
        )
    )
    shown = [[(use["lora"], use["weight"]) for use in c["loras"]] for c in found]
    assert shown == [[(a, 0.5)], [(b, 0.5)], [], [(a, 1)], [(b, 1)], []]
    assert found[2]["labels"] == ["weight 0.5", "no LoRA"]


def test_a_picture_in_the_request_is_kept_once(client):
    url = f"data:image/png;base64,{base64.b64encode(picture(1)).decode()}"
    found = cells(submit(client, {"name": "seed", "values": [1, 2, 3]}, init_image=url))
    assert len({str(c["request"]["init_image"]) for c in found}) == 1


@pytest.mark.parametrize(
    ("axes", "pointer", "words"),
    [
        ([], "/axes", "at least 1"),
        ([{"name": "seed", "values": []}], "/axes/0/values", "at least 1"),
        ([{"name": "vae", "values": [1]}], "/axes/0/name", "weight"),
        ([{"name": "seed", "values": [1, -2]}], "/axes/0/values/1", "-2 of seed"),
        ([{"name": "steps", "values": ["many"]}], "/axes/0/values/0", "'many' of steps"),
        (
            [{"name": "seed", "values": [1]}, {"name": "seed", "values": [2]}],
            "/axes/1/name",
            "twice",
        ),
        ([{"name": "weight", "values": [1]}], "/axes/0/name", "no LoRA"),
        (
            [{"name": "weight", "values": [3]}, {"name": "lora", "values": ["ink"]}],
            "/axes/0/values/0",
            "3 of weight",
        ),
        ([{"name": "seed", "values": [1], "lora": "x"}], "/axes/0/lora", "axis of weights"),
        (
            [{"name": "seed", "values": list(range(11))}, {"name": "steps", "values": [1] * 10}],
            "/axes",
            "110 pictures; the limit (LORAWRIGHT_MAX_COMPARISON_IMAGES) is 100",
        ),
        ([{"name": "scheduler", "values": ["euler", "magic"]}], "/scheduler", "magic"),
    ],
)
def test_a_wrong_axis_is_named_and_nothing_is_queued(client, axes, pointer, words):
    make_lora("ink")
    answer = submit(client, *axes)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert any(error["pointer"].startswith(pointer) for error in problem["errors"]), problem
    assert words in str(problem)
    assert client.get("/v1/jobs").json()["data"] == []


def test_another_accounts_loras_and_checkpoints_do_not_exist(client, other_client):
    lora = make_lora("ink")
    for values in ([lora], ["ckpt_none"]):
        answer = submit(other_client, {"name": "checkpoint", "values": values})
        assert answer.status_code == 404, answer.text
    mine = submit(client, {"name": "lora", "values": [lora]}).json()["id"]
    assert other_client.get(f"/v1/comparisons/{mine}").status_code == 404
    assert other_client.get("/v1/comparisons").json()["data"] == []
