"""What a generation freezes when it is submitted, and what it refuses."""

import pytest

from app.accounts.models import Account
from app.database import new_id, transaction
from app.loras.models import Lora


def make_lora(name: str = "ink", architecture: str = "emoji-64", **fields) -> str:
    with transaction() as session:
        account = session.query(Account).filter_by(name="customer").one()
        lora = Lora(
            id=new_id("lora"),
            account_id=account.id,
            name=name,
            base_model=architecture,
            architecture=architecture,
            source="upload",
            rank=4,
            alpha=4.0,
            object_key="none",
            sha256="0" * 64,
            bytes=1,
            file_metadata={},
            **fields,
        )
        session.add(lora)
        return lora.id


def submit(client, **fields):
    return client.post("/v1/generations", json={"prompt": "a fox", **fields})


def test_every_default_is_filled_in(client):
    request = submit(client).json()["request"]
    assert isinstance(request.pop("seed"), int)
    assert request == {
        "prompt": "a fox",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": 20,
        "guidance_scale": 4.0,
        "guidance_rescale": 0.0,
        "scheduler": "euler",
        "num_images": 1,
        "strength": 0.8,
        "hires": None,
        "previews": 0,
        "init_image": None,
        "mask_image": None,
        "format": "png",
    }


def test_six_loras_are_refused(client):
    ids = [make_lora(f"l{n}") for n in range(6)]
    answer = submit(client, loras=[{"lora": lora} for lora in ids])
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "too_many_loras"
    assert "6 LoRAs" in problem["detail"]
    assert "at most 5" in problem["detail"]
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_lora_of_another_architecture_is_refused(client):
    lora = make_lora(architecture="sdxl")
    answer = submit(client, loras=[{"lora": lora}])
    assert answer.status_code == 422
    assert answer.json()["code"] == "lora_incompatible"


def test_a_tag_in_the_prompt_is_an_entry_in_loras(client):
    lora = make_lora("ink wash")
    answer = submit(client, prompt="a fox <lora:ink wash:0.7> at night").json()
    assert answer["request"]["prompt"] == "a fox at night"
    assert [(use["lora"], use["weight"]) for use in answer["loras"]] == [(lora, 0.7)]


def test_a_lora_without_a_weight_has_its_own_default(client):
    lora = make_lora(default_weight=0.6)
    answer = submit(client, loras=[{"lora": lora}]).json()
    assert answer["loras"][0]["weight"] == 0.6


def test_a_name_that_two_loras_have_is_refused(client):
    make_lora("ink")
    make_lora("ink")
    assert submit(client, loras=[{"lora": "ink"}]).status_code == 409


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"width": 65}, "/width"),
        ({"height": 4096}, "/height"),
        ({"scheduler": "magic"}, "/scheduler"),
        ({"scheduler": "lcm", "steps": 51}, "/scheduler"),
        ({"base_model": "sd-9"}, "/base_model"),
        ({"num_images": 9}, "/num_images"),
        ({"prompt": "x" * 4001}, "/prompt"),
        ({"prompt": "<lora:ink:heavy>"}, "/prompt"),
        ({"loras": [{"lora": "x", "weight": 3}]}, "/loras/0/weight"),
        ({"seed": -1}, "/seed"),
        ({"steps": 0}, "/steps"),
        ({"guidance_scale": "high"}, "/guidance_scale"),
    ],
)
def test_a_wrong_value_is_named(client, fields, pointer):
    answer = submit(client, **fields)
    assert answer.status_code == 422, answer.text
    assert pointer in {error["pointer"] for error in answer.json()["errors"]}
    assert client.get("/v1/generations").json()["data"] == []


def test_an_unknown_lora_is_a_404(client):
    assert submit(client, loras=[{"lora": "lora_none"}]).status_code == 404


def test_a_name_that_no_lora_has_is_answered_with_those_that_there_are(client):
    def told() -> str:
        answer = submit(client, loras=[{"lora": "ink"}])
        assert answer.status_code == 404
        return str(answer.json()["detail"])

    assert told() == "No LoRA named 'ink'; there is none yet"
    for number in range(6):
        make_lora(f"ink {number}")
    newest = "'ink 5', 'ink 4', 'ink 3', 'ink 2', 'ink 1'"
    assert told() == f"No LoRA named 'ink'; the newest are {newest}"


def test_a_weight_for_a_block_that_is_not_there_is_refused(client):
    lora = make_lora("ink")
    for block, status in (("unet.up_blocks.1", 201), ("unet.nope", 422), ("unet.up_block", 422)):
        uses = [{"lora": lora, "weight": {"blocks": {block: 1.0}}}]
        answer = submit(client, loras=uses)
        assert answer.status_code == status, answer.text
    assert "'unet.up_block'" in answer.json()["detail"]
