"""Real pictures, the real small base, and the trainer as a program of its own."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from worker.ml.training.data.prepare import count_steps, prepare
from worker.ml.training.events import Events
from worker.ml.training.loop import Training
from worker.ml.training.memory.plan import footprint_of, make_plan
from worker.ml.training.parallel import Group
from worker.ml.training.spec import fingerprint, read_spec

REPOSITORY = Path(__file__).parents[4]
PICTURES = sorted((REPOSITORY / "examples" / "ink-style").glob("*.png"))

Json = dict[str, Any]
# A spec in a file: parameters by name, and other fields of the spec.
WriteSpec = Callable[..., Path]


def merged_rows(metrics: Sequence[Json]) -> dict[int, Json]:
    """Rows of metrics events by step; a later row of a step adds to an earlier one."""
    found: dict[int, Json] = {}
    for event in metrics:
        for row in event["rows"]:
            known = {name: value for name, value in row.items() if value is not None}
            found.setdefault(row["step"], {}).update(known)
    for row in found.values():
        row.pop("images_per_second", None)
        row.pop("memory_bytes", None)
    return found


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
            event = self.hear(line)
            if event is not None and event["type"] == type_:
                return event
        return None

    def hear(self, line: str) -> Json | None:
        """Take one line; None if it is the half of one that a kill has left."""
        if not line.endswith("\n"):
            return None
        event: Json = json.loads(line)
        self.events.append(event)
        return event

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

    def rows(self) -> dict[int, Json]:
        """All that was measured, by step; without what differs from run to run."""
        return merged_rows(self.of("metrics"))

    def losses(self) -> dict[int, float]:
        """Loss by step."""
        return {step: row["loss"] for step, row in self.rows().items() if "loss" in row}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents and embeddings, shared by all tests as it is by all trainings."""
    return tmp_path_factory.mktemp("training-cache")


@pytest.fixture(scope="session")
def many_pictures() -> Sequence[Path]:
    """Enough that the same ones are held out of every epoch."""
    return PICTURES[:20]


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


class Run:
    """A training in this process and what it told."""

    def __init__(
        self,
        spec_path: Path,
        output: Path,
        cache: Path,
        should_stop: Callable[["Run"], bool] = lambda _: False,
    ) -> None:
        spec = read_spec(spec_path)
        self._told = io.StringIO()
        events = Events(self._told)
        plan = make_plan(
            spec.params, spec.base_model.vae_scale_factor, lambda: footprint_of(spec.base_model)
        )
        self.training = Training(
            spec=spec,
            spec_sha256=fingerprint(spec),
            plan=plan,
            prepared=prepare(
                spec, plan, count_steps(spec, Group()), cache, events, Group(), lambda: None
            ),
            output=output,
            events=events,
            group=Group(),
            should_stop=lambda: should_stop(self),
            state_every_seconds=1e9,
        )

    def go(self, *, resume: bool = False) -> "Run":
        """Train to the end, on one thread: small matrices gain nothing from a second."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            self.training.run(resume=resume)
        finally:
            torch.set_num_threads(before)
        return self

    def of(self, type_: str) -> list[Json]:
        """The events of a type, in order."""
        told = [json.loads(line) for line in self._told.getvalue().splitlines()]
        return [event for event in told if event["type"] == type_]

    def rows(self) -> dict[int, Json]:
        """All that was measured, by step."""
        return merged_rows(self.of("metrics"))


@pytest.fixture
def run(tmp_path: Path, cache: Path) -> Callable[..., Run]:
    """Prepare a training in this process; `output` names its folder."""

    def prepared(spec: Path, output: str = "run", **options: Any) -> Run:
        return Run(spec, tmp_path / output, cache, **options)

    return prepared
