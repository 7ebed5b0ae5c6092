"""LoRA tools through the whole service: a worker merges, another layout is had, and drawn with."""

import httpx

from tests.e2e.conftest import Service
from tests.safetensors_files import sound, whole


def _upload(service: Service, name: str) -> str:
    data = sound(whole("emoji-64", 2), {"ss_training_comment": name})
    files = {"file": (f"{name}.safetensors", data, "application/octet-stream")}
    answer = service.client.post("/v1/loras", files=files)
    assert answer.status_code == 201, answer.text
    lora: str = answer.json()["id"]
    return lora


def test_a_merged_lora_is_downloaded_as_diffusers_and_drawn_with(service: Service) -> None:
    first, second = _upload(service, "first of a merge"), _upload(service, "second of a merge")
    loras = [{"lora": first, "weight": 0.001}, {"lora": second, "weight": -0.002}]
    job = service.post("/v1/lora-tools", {"operation": "merge", "loras": loras})
    job = service.succeed(f"/v1/lora-tools/{job['id']}")
    assert job["report"]["ranks"] == {"min": 4, "max": 4}
    assert job["report"]["error"] < 1e-3
    # The request waits for the worker's conversion.
    answer = service.client.get(f"/v1/loras/{job['lora']}/download?format=diffusers")
    assert answer.status_code == 302, answer.text
    assert b".lora_A.weight" in httpx.get(answer.headers["Location"]).content[:100_000]
    request = {"prompt": "a fox", "loras": [{"lora": job["lora"]}], "steps": 2, "seed": 1}
    generation = service.post("/v1/generations", request)
    generation = service.succeed(f"/v1/generations/{generation['id']}")
    [report] = generation["loras"]
    assert report["matched"] == len(job["report"]["modules"])
    assert report["unmatched"] == []
