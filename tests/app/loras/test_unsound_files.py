"""Files that are damaged, lie or try to hurt get a clear refusal through the API, and no more."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.safetensors_files import pair, peft_pair, sound, whole
from tests.unsound_loras import cases, mutations

CASES = cases()
CODES = {
    "lora_file_invalid",
    "lora_keys_unknown",
    "lora_shape_mismatch",
    "lora_not_finite",
    "lora_variant_unsupported",
    "lora_incompatible",
}


def send(client: TestClient, path: str, data: bytes, **fields: str) -> Any:
    files = {"file": ("x.safetensors", data, "application/octet-stream")}
    return client.post(path, files=files, data=fields)


def test_each_is_refused_with_its_reason_and_nothing_is_kept(client: TestClient) -> None:
    wrong: dict[str, str] = {}
    for name, (data, code, words) in CASES.items():
        answer = send(client, "/v1/loras", data)
        problem = answer.json()
        fine = answer.status_code == 422 and problem["code"] == code and words in problem["detail"]
        if not fine or len(problem["detail"]) > 2000:
            wrong[name] = answer.text[:500]
    assert wrong == {}
    assert client.get("/v1/loras").json()["data"] == []


def test_ten_thousand_sound_keys_are_taken_when_asked(client: TestClient) -> None:
    tensors = whole("emoji-64") | {f"some.weight.{n}": ("F16", (1,)) for n in range(10_000)}
    answer = send(client, "/v1/loras", sound(tensors), strict="false")
    assert answer.status_code == 201, answer.text
    unmatched = answer.json()["report"]["unmatched"]
    assert unmatched["count"] == 10_000
    assert len(unmatched["names"]) == 100


def test_no_mutation_of_a_sound_file_breaks_the_server(client: TestClient) -> None:
    refused = 0
    for number, data in enumerate(mutations(seed=7, count=400)):
        path = "/v1/loras" if number % 4 == 0 else "/v1/loras/inspect"
        answer = send(client, path, data)
        assert answer.status_code in (200, 201, 422), (number, answer.text)
        if answer.status_code == 422:
            refused += 1
            assert answer.json()["code"] in CODES, (number, answer.text)
    # The rest are flips among the numbers.
    assert refused > 150


def te(name: str, width: int, text: str = "lora_te") -> dict[str, tuple[str, tuple[int, ...]]]:
    return pair(f"{text}_text_model_encoder_layers_0_self_attn_{name}", width, width)


SD_KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
FLUX_PEFT = "transformer.single_transformer_blocks.0.attn.to_q"
OTHERS = {
    "SD 1.5": (pair(SD_KEY, 768, 320) | te("q_proj", 768), "Stable Diffusion 1.x"),
    "SD 2.1": (pair(SD_KEY, 1024, 320) | te("q_proj", 1024), "Stable Diffusion 2.x"),
    "SD 3": (pair("lora_unet_joint_blocks_0_x_block_attn_qkv", 1536, 4608), "Stable Diffusion 3"),
    "Flux": (pair("lora_unet_double_blocks_0_img_attn_qkv", 3072, 9216), "Flux"),
    "Flux, diffusers": (peft_pair(FLUX_PEFT, 3072, 3072), "Flux"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_lora_of_another_family_is_refused_by_its_name(client: TestClient, case: str) -> None:
    tensors, title = OTHERS[case]
    answer = send(client, "/v1/loras", sound(tensors))
    assert (answer.status_code, answer.json()["code"]) == (422, "lora_incompatible")
    assert f"made for {title};" in answer.json()["detail"]
    assert "Stable Diffusion XL (sdxl) is needed" in answer.json()["detail"]
    described = send(client, "/v1/loras/inspect", sound(tensors))
    assert described.status_code == 200
    assert described.json()["family"]["title"] == title
