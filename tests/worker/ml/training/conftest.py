"""Real pictures, the real small base, and the trainer as a program of its own."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[4]
PICTURES = sorted((REPOSITORY / "examples" / "ink-style").glob("*.png"))

Json = dict[str, Any]
# A spec in a file: parameters by name, and other fields of the spec.
WriteSpec = Callable[..., Path]


class Program:
    """`python -m worker.ml.training` on a spec, while it runs and when it has ended."""

    def __init__(self, spec: Path, output: Path, cache: Path, options: Sequence[str]) -> None:
        self.events: list[Json] = []
        self._errors = (output.parent / f"{output.name}.log").open("a+")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "worker.ml.training", str(spec)),
                *(f"--output={output}", f"--cache={cache}", *options),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=REPOSITORY,
            # One thread is as fast as two on so small a base, and does not suffer from neighbours.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def until(self, type_: str) -> Json | None:
        """Read events up to the next of a type, or to the end (None)."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            self.events.append(event)
            if event["type"] == type_:
                return event
        return None

    def end(self) -> int:
        """Read to the end; the exit code."""
        self.until("")
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            if pipe is not None:
                pipe.close()
        return code

    def of(self, type_: str) -> list[Json]:
        """The events of a type, in order."""
        return [event for event in self.events if event["type"] == type_]

    def losses(self) -> dict[int, float]:
        """Loss by step."""
        rows = [row for event in self.of("metrics") for row in event["rows"]]
        return {row["step"]: row["loss"] for row in rows if row["loss"] is not None}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents and embeddings, shared by all tests as it is by all trainings."""
    return tmp_path_factory.mktemp("training-cache")


@pytest.fixture(scope="session")
def write_spec(tmp_path_factory: pytest.TempPathFactory) -> WriteSpec:
    """A spec of real pictures; small and quick unless told otherwise."""

    def write(params: Json | None = None, pictures: Sequence[Path] = PICTURES[:10], **more: Any):
        images = []
        for path in pictures:
            with Image.open(path) as image:
                width, height = image.size
            name = path.stem.replace("-", " ")
            images.append(
                {
                    "path": str(path),
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "width": width,
                    "height": height,
                    "caption": f"inkstyle, {name}, a drawing, in the style of inkstyle",
                    "repeats": None,
                }
            )
        quick = {
            "resolution": 64,
            "rank": 4,
            "alpha": 4.0,
            "learning_rate": 1e-3,
            "seed": 11,
            "batch_size": 4,
            "num_repeats": 1,
            "epochs": 4,
            "save_every_n_epochs": 2,
        }
        spec = {
            "format": "lorawright.training/1",
            "name": "ink",
            "trigger_word": "inkstyle",
            "params": {**quick, **(params or {})},
            "base_model": {
                "id": "emoji-64",
                "location": str(REPOSITORY / "assets" / "emoji-64"),
                "architecture": "emoji-64",
                "native_resolution": 64,
                "vae_scale_factor": 4,
            },
            "images": images,
            **more,
        }
        path = tmp_path_factory.mktemp("spec") / "spec.json"
        path.write_text(json.dumps(spec))
        return path

    return write


@pytest.fixture(scope="session")
def start(cache: Path) -> Callable[..., Program]:
    """Start the program."""

    def start_program(spec: Path, output: Path, *options: str) -> Program:
        return Program(spec, output, cache, options)

    return start_program
