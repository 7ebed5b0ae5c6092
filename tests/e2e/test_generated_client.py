"""A client that openapi-python-client writes from docs/openapi.json does the whole job."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx

from app.settings import REPOSITORY
from tests.e2e.conftest import EXAMPLES, Service
from tests.serving import serving

# `make test` makes it, from tools/client_generator.txt.
GENERATOR = Path(sys.prefix, "generator", "bin")


def run(*command: str | Path, **variables: str) -> str:
    environment = {"PATH": f"{GENERATOR}:{os.environ['PATH']}", **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout, done.stdout
    return done.stdout


def test_a_generated_client_goes_from_pictures_to_a_lora_to_a_picture(
    service: Service, tmp_path: Path
):
    assert GENERATOR.exists(), f"{GENERATOR} is missing: `make test` makes it"
    run(
        *(GENERATOR / "openapi-python-client", "generate", "--meta", "none"),
        *("--path", REPOSITORY / "docs" / "openapi.json"),
        *("--output-path", tmp_path / "lorawright_client"),
    )
    key = service.client.headers["Authorization"].removeprefix("Bearer ")
    with serving() as address:
        told = run(
            *(GENERATOR / "python", Path(__file__).with_name("generated_client_road.py")),
            EXAMPLES / "riso-style",
            LORAWRIGHT_URL=address,
            LORAWRIGHT_API_KEY=key,
            PYTHONPATH=str(tmp_path),
        )
    generation = json.loads(told)
    [use] = generation["loras"]
    assert (use["weight"], use["unmatched"]) == (0.8, [])
    assert use["matched"] > 0
    [image] = generation["images"]
    data = httpx.get(image["url"]).raise_for_status().content
    assert hashlib.sha256(data).hexdigest() == image["sha256"]
