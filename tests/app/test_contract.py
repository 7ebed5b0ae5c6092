"""The API keeps to its own OpenAPI document, whatever schemathesis thinks of sending it.

A few examples run here. LORAWRIGHT_TEST_CONTRACT_EXAMPLES=100 makes a longer run, with every
boundary of every value besides.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import settings
from tests.pictures import picture
from tests.serving import serving

SETTINGS = Path(__file__).parents[1] / "schemathesis.toml"
LONG = os.environ.get("LORAWRIGHT_TEST_CONTRACT_EXAMPLES")
PHASES = "coverage,fuzzing,stateful" if LONG else "fuzzing,stateful"
# Nothing is drawn or converted here, so there is nothing to wait for, and much to ask.
IMPATIENT = {
    "LORAWRIGHT_REQUESTS_PER_MINUTE": "1000000",
    "LORAWRIGHT_OPENAI_WAIT_SECONDS": "0.01",
    "LORAWRIGHT_LORA_CONVERSION_WAIT_SECONDS": "0.01",
    "LORAWRIGHT_EVENT_STREAM_SECONDS": "0.01",
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch):
    for name, value in IMPATIENT.items():
        monkeypatch.setenv(name, value)
    settings.get_settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.get_settings.cache_clear()


def real_ids(client, make_dataset) -> dict[str, list[str]]:
    """Objects for it to find, by the name of the parameter that names them."""
    dataset = make_dataset(pictures=2)
    image = client.get(f"/v1/datasets/{dataset}/images").json()["data"][0]["id"]
    posts = [
        ("/v1/trainings", {"dataset": dataset, "name": "ink"}),
        ("/v1/generations", {"prompt": "a red apple", "init_image": image}),
        ("/v1/comparisons", {"prompt": "a fox", "axes": [{"name": "seed", "values": [1, 2]}]}),
        (f"/v1/datasets/{dataset}/captionings", {"overwrite": "all"}),
    ]
    jobs = [client.post(path, json=body).json()["id"] for path, body in posts]
    file = {"file": ("mask.png", picture(7), "image/png")}
    return {
        "dataset_id": [dataset],
        "image_id": [image, client.post("/v1/inputs", files=file).json()["id"]],
        "training_id": jobs[:1],
        "job_id": jobs,
    }


@pytest.mark.usefixtures("impatient")
def test_no_request_breaks_the_contract(client, make_dataset, tmp_path: Path):
    lines = [SETTINGS.read_text()]
    ids = real_ids(client, make_dataset)
    lines += [f"[dictionaries.{name}]\nvalues = {values}" for name, values in ids.items()]
    lines += ["[parameters]"]
    lines += [f'{name} = {{dictionary = "{name}", probability = 0.7}}' for name in ids]
    (tmp_path / "schemathesis.toml").write_text("\n".join(lines))
    with serving() as address:
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
            *("run", f"{address}/openapi.json", "--checks", "all"),
            *("--phases", PHASES, "--max-examples", LONG or "2"),
            # Not several: threads that parse Python at one time break the parser of CPython 3.11
            # ("AST constructor recursion depth mismatch"), and hypothesis parses.
            *("--workers", "1"),
            *("--header", f"Authorization: {client.headers['Authorization']}"),
        ]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=3600, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    operations = sum(len(each) for each in client.app.openapi()["paths"].values())
    assert f"Tested: {operations}" in done.stdout, done.stdout
