"""A LoRA file from elsewhere: refused where it is unsound, drawn with where it is not."""

import math
import struct
from typing import Any

import httpx

from app.lora_format.architectures import architectures
from tests.e2e.conftest import Service
from tests.safetensors_files import Tensors, sound, whole
from tests.unsound_loras import cases


def kohya_names(tensors: Tensors) -> Tensors:
    """The same as kohya's trainer names them, where it keeps diffusers' block names."""
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    endings = {"lora_A": "lora_down", "lora_B": "lora_up"}
    renamed = {}
    for name, tensor in tensors.items():
        path, ending, _ = name.rsplit(".", 2)
        network, _, rest = path.partition(".")
        module = f"{prefixes[network]}_{rest.replace('.', '_')}"
        renamed[f"{module}.{endings[ending]}.weight"] = tensor
    return renamed


def faint(tensors: Tensors) -> bytes:
    """A file that changes a picture a little: every value is 0.03."""
    value = struct.pack("<e", 0.03)
    return sound(tensors, values={n: value * math.prod(s) for n, (_, s) in tensors.items()})


def send(service: Service, data: bytes) -> httpx.Response:
    files = {"file": ("elsewhere.safetensors", data, "application/octet-stream")}
    return service.client.post("/v1/loras", files=files)


def draw(service: Service, **request: Any) -> tuple[bytes, list[dict[str, Any]]]:
    """The picture's file, and what became of the LoRAs."""
    told = {"prompt": "a red heart", "seed": 3, "steps": 4, **request}
    job = service.post("/v1/generations", told)
    job = service.succeed(f"/v1/generations/{job['id']}")
    return httpx.get(job["images"][0]["url"]).raise_for_status().content, job["loras"]


def test_the_worker_applies_all_of_what_the_upload_lets_pass(service: Service) -> None:
    for data, code, _ in cases().values():
        assert send(service, data).json()["code"] == code
    bare, _ = draw(service)
    linears = sum(len(weight) == 2 for weight in architectures()["emoji-64"].weights.values())
    diffusers = whole("emoji-64", 2)
    for layout, tensors in (("diffusers", diffusers), ("kohya", kohya_names(diffusers))):
        answer = send(service, faint(tensors))
        assert answer.status_code == 201, answer.text
        lora = answer.json()
        assert (lora["layout"], lora["report"]["matched"]) == (layout, linears)
        picture, loras = draw(service, loras=[{"lora": lora["id"]}])
        assert picture != bare
        assert (loras[0]["matched"], loras[0]["unmatched"]) == (linears, [])
