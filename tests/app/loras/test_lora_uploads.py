"""LoRAs from elsewhere over HTTP: kept once they are sound, inspected without being kept."""

import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.cli.embedded import EmbeddedServers
from app.settings import get_settings
from app.storage import get_store
from tests.safetensors_files import EMOJI_KEY, SDXL_KEY, pair, peft_pair, sound, whole

EMOJI = sound(
    whole("emoji-64", 4),
    {
        "ss_network_dim": "4",
        "ss_tag_frequency": '{"10_ink": {"ink\\ud800": 3, "a cat": 9}}',
        "modelspec.trigger_phrase": "inkstyle",
        "modelspec.title": "Ink\u0000",
        "ss_datasets": "x" * 20_000,
    },
)
SDXL = sound(pair(SDXL_KEY, 2048, 640, 8))


def upload(client: TestClient, data: bytes, path: str = "", **fields: Any) -> Any:
    files = {"file": ("my ink.safetensors", data, "application/octet-stream")}
    return client.post(f"/v1/loras{path}", files=files, data=fields)


def is_kept(client: TestClient, data: bytes) -> bool:
    """Whether the account has a LoRA, or the bytes lie in any account's storage."""
    sha256 = hashlib.sha256(data).hexdigest()
    keys = get_store().list_keys("accounts/")
    return bool(client.get("/v1/loras").json()["data"]) or any(sha256 in key for key in keys)


def emoji(note: str) -> bytes:
    """A sound file that no other test has."""
    return sound(whole("emoji-64"), {"ss_training_comment": note})


@pytest.fixture
def small_limit(
    clean: EmbeddedServers,  # noqa: ARG001 (order)
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Files over a megabyte are too large."""
    monkeypatch.setenv("LORAWRIGHT_MAX_LORA_BYTES", str(1024 * 1024))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_an_upload_is_kept_whole_and_described(client: TestClient) -> None:
    answer = upload(client, EMOJI)
    assert answer.status_code == 201, answer.text
    lora = answer.json()
    assert lora["object"] == "lora"
    assert lora["name"] == "my ink"
    assert lora["source"] == "upload"
    assert lora["trigger_word"] == "inkstyle"
    assert (lora["base_model"], lora["architecture"]) == ("emoji-64", "emoji-64")
    assert (lora["rank"], lora["alpha"], lora["layout"]) == (4, 4.0, "diffusers")
    assert lora["sha256"] == hashlib.sha256(EMOJI).hexdigest()
    assert lora["bytes"] == len(EMOJI)
    assert lora["file_metadata"]["modelspec.title"] == "Ink�"
    assert "ss_datasets" not in lora["file_metadata"]
    report = lora["report"]
    assert report["usable"] is True
    assert report["matched"] == report["modules"] == sum(report["networks"].values())
    assert report["tags"] == [{"tag": "a cat", "count": 9}, {"tag": "ink?", "count": 3}]
    assert [item["source"] for item in report["trigger_phrases"]] == ["modelspec", "tags", "tags"]
    assert client.get(f"/v1/loras/{lora['id']}").json() == lora
    assert client.get("/v1/loras").json()["data"] == [lora]
    keys = [key for key in get_store().list_keys("accounts/") if lora["sha256"] in key]
    assert keys[0].endswith(f"/loras/{lora['sha256']}.safetensors")
    assert get_store().get_bytes(keys[-1]) == EMOJI


def test_what_the_client_says_of_it_counts(client: TestClient) -> None:
    fields = {
        "name": " Ink ",
        "description": "bold lines",
        "trigger_word": "inkish",
        "base_model": "emoji-64",
        "default_weight": "0.7",
    }
    lora = upload(client, EMOJI, **fields).json()
    assert {name: str(lora[name]) for name in fields} == fields | {"name": "Ink"}


def test_an_sdxl_lora_is_checked_without_its_base(client: TestClient) -> None:
    lora = upload(client, SDXL).json()
    assert (lora["base_model"], lora["architecture"]) == ("sdxl-1.0", "sdxl")
    assert (lora["rank"], lora["layout"]) == (8, "kohya")


def test_the_same_file_again_is_the_same_lora(client: TestClient, other_client: TestClient) -> None:
    first = upload(client, EMOJI)
    again = upload(client, EMOJI, name="another name")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    elsewhere = upload(other_client, EMOJI)
    assert elsewhere.status_code == 201
    assert elsewhere.json()["id"] != first.json()["id"]


def test_of_uploads_at_the_same_time_one_makes_the_lora(client: TestClient) -> None:
    answers: list[Any] = []
    gate = threading.Barrier(4)

    def send() -> None:
        gate.wait()
        answers.append(upload(client, EMOJI))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/v1/loras").json()["data"]) == 1


def test_a_stored_file_is_downloaded_as_it_is(client: TestClient) -> None:
    lora = upload(client, EMOJI).json()
    assert lora["layout"] == "diffusers"
    for query in ("?format=original", "?format=diffusers"):
        answer = client.get(f"/v1/loras/{lora['id']}/download{query}")
        assert answer.status_code == 302
        assert f"/{lora['sha256']}.safetensors" in answer.headers["Location"]


def test_a_refused_file_is_not_kept(client: TestClient) -> None:
    data = sound(pair(SDXL_KEY, 2048, 640) | {"over": ("F16", (1,))})
    answer = upload(client, data)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "lora_keys_unknown"
    assert "over" in problem["detail"]
    assert not is_kept(client, data)


def test_with_strict_off_unknown_keys_are_listed(client: TestClient) -> None:
    data = sound(pair(SDXL_KEY, 2048, 640) | {"left.over": ("F16", (1,))})
    answer = upload(client, data, strict="false")
    assert answer.status_code == 201, answer.text
    assert answer.json()["report"]["unmatched"] == {"count": 1, "names": ["left.over"]}


def test_a_lora_of_another_base_than_named_is_refused(client: TestClient) -> None:
    answer = upload(client, EMOJI, base_model="sdxl-1.0")
    assert (answer.status_code, answer.json()["code"]) == (422, "lora_incompatible")
    assert "made for Emoji, 64 px; Stable Diffusion XL (sdxl) is needed" in answer.json()["detail"]


def test_inspecting_keeps_nothing(client: TestClient) -> None:
    data = sound(whole("emoji-64"), {"ss_datasets": "y" * 20_000, "ss_steps": "7"})
    answer = upload(client, data, "/inspect")
    assert answer.status_code == 200, answer.text
    inspected = answer.json()
    assert inspected.pop("file_metadata") == {"ss_steps": "7"}
    assert inspected.pop("metadata_left_out") == {"count": 1, "names": ["ss_datasets"]}
    assert not is_kept(client, data)
    assert upload(client, data).json()["report"] == inspected


def test_inspecting_describes_what_cannot_be_used(client: TestClient) -> None:
    name = "transformer.single_transformer_blocks.0.attn.to_q"
    inspected = upload(client, sound(peft_pair(name, 3072, 3072)), "/inspect").json()
    assert inspected["usable"] is False
    assert inspected["family"] == {"id": "flux", "title": "Flux"}
    assert (inspected["architecture"], inspected["modules"]) == (None, 1)
    assert [problem["code"] for problem in inspected["problems"]] == ["lora_incompatible"]
    damaged = upload(client, EMOJI[:-1], "/inspect")
    assert (damaged.status_code, damaged.json()["code"]) == (422, "lora_file_invalid")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("default_weight", "3"),
        ("default_weight", "nan"),
        ("name", "x" * 201),
        ("name", "a\x00b"),
        ("base_model", "sdxl-9"),
        ("strict", "perhaps"),
        ("trigger_word", "x" * 101),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, field: str, value: str) -> None:
    data = emoji(f"{field} {value}")
    answer = upload(client, data, **{field: value})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"/{field}"]
    assert not is_kept(client, data)


def test_a_form_without_a_file_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/loras", files={"name": (None, "ink")})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/file"


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("path", ["", "/inspect"])
@pytest.mark.parametrize("size", [1024 * 1024 + 1, 2 * 1024 * 1024])
def test_a_file_over_the_limit_is_refused(client: TestClient, path: str, size: int) -> None:
    answer = upload(client, bytes(size), path)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "LORAWRIGHT_MAX_LORA_BYTES" in answer.json()["detail"]
    assert "1048576" in answer.json()["detail"]


def test_an_uploaded_lora_can_be_drawn_with(client: TestClient) -> None:
    lora = upload(client, EMOJI).json()
    request = {"prompt": "inkstyle", "loras": [{"lora": lora["id"]}], "base_model": "emoji-64"}
    answer = client.post("/v1/generations", json=request)
    assert answer.status_code == 201, answer.text


def test_a_key_needs_the_scope(client: TestClient) -> None:
    del client.headers["Authorization"]
    assert upload(client, EMOJI).status_code == 401
    assert upload(client, sound(pair(EMOJI_KEY, 256, 128)), "/inspect").status_code == 401


def test_a_peft_file_whose_alpha_stands_elsewhere_is_refused_unless_told(client):
    """Alone it would be applied at a scale that nobody chose."""
    name = "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    file = sound(peft_pair(name, 640, 640))
    refused = upload(client, file)
    assert refused.status_code == 422, refused.text
    assert refused.json()["code"] == "lora_scale_untold"
    assert "adapter_config.json" in refused.json()["detail"]
    accepted = upload(client, file, strict="false")
    assert accepted.status_code == 201, accepted.text
    assert accepted.json()["report"]["matched"] == 1
