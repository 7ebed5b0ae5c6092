"""The work that is disturbed: short trainings and generations of a few kinds, through the API."""

import io
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops
from sqlalchemy import select
from starlette.testclient import TestClient

from app.database import transaction
from app.generations.models import GeneratedImage
from app.jobs.models import TERMINAL, Job
from app.loras.models import Lora
from app.storage import get_store
from tests.faults.harness.stack import Stack

PICTURES = Path(__file__).parents[3] / "examples" / "ink-style"
PICTURE_COUNT = 6
TRAINING_STEPS = 20
REFERENCE_SECONDS = 180.0
POLL_SECONDS = 0.05
# Of each four kinds of generations so many run alone; the others may be drawn in batches.
ALONE_OF_FOUR = 2
TOLERANCE = 8
# The API may be asked while Postgres is away.
SUBMIT_SECONDS = 60.0


@dataclass
class Submitted:
    """A job, and which kind of request it was: those of a kind make the same bytes."""

    job_id: str
    kind: str


@dataclass
class Work:
    """Everything that was submitted, and what undisturbed runs of the same requests made."""

    client: TestClient
    stack: Stack
    training_kinds: int
    generation_kinds: int
    dataset: str = ""
    picture: str = ""
    loras: list[str] = field(default_factory=list)
    # Kind to the files that were made: a LoRA, or pictures in order.
    reference: dict[str, list[bytes]] = field(default_factory=dict)
    jobs: list[Submitted] = field(default_factory=list)

    def prepare(self) -> None:
        """Upload a dataset, and run one request of each kind in peace."""
        self.dataset = self._upload()
        trainings = [self._training(number) for number in range(self.training_kinds)]
        self.loras = [
            self._get(f"/v1/trainings/{self._ended(job.job_id)}")["lora"] for job in trainings
        ]
        generations = [self._generation(number) for number in range(self.generation_kinds)]
        for job in (*trainings, *generations):
            self.reference[job.kind] = self._results(self._ended(job.job_id))

    def submit_training(self, number: int) -> None:
        """One more training, of the kind that `number` falls on."""
        self.jobs.append(self._training(number % self.training_kinds))

    def submit_generation(self, number: int) -> None:
        """One more generation."""
        self.jobs.append(self._generation(number % self.generation_kinds))

    def differences(self) -> list[str]:
        """Jobs that made something else than the undisturbed run of the same request.

        A LoRA must have the same bytes, and so must a picture that was drawn alone. Rows of a batch
        are added up in another order when the batch has another size, so of those each value of a
        pixel may be `TOLERANCE` off.
        """
        found = []
        for job in self.jobs:
            made, wanted = self._results(job.job_id), self.reference[job.kind]
            if len(made) != len(wanted):
                found.append(f"{job.job_id} made {len(made)} files, not {len(wanted)}")
            elif made != wanted and (
                not _may_be_batched(job)
                or any(_differ(*pair) for pair in zip(made, wanted, strict=True))
            ):
                found.append(f"{job.job_id} ({job.kind}) differs from its undisturbed run")
        return found

    def _results(self, job_id: str) -> list[bytes]:
        """What a job has published: the LoRA's file, or the pictures' in order."""
        with transaction() as session:
            if job_id.startswith("trn_"):
                keys = session.scalars(select(Lora.object_key).where(Lora.training_id == job_id))
            else:
                keys = session.scalars(
                    select(GeneratedImage.object_key)
                    .where(GeneratedImage.generation_id == job_id)
                    .order_by(GeneratedImage.index)
                )
            return [get_store().get_bytes(key) for key in keys.all()]

    def start_training(self, **params: Any) -> str:
        """A training that is no part of the work, such as one to be canceled; its id."""
        return str(self._post("/v1/trainings", self._training_request(0, **params))["id"])

    def start_generation(self, **fields: Any) -> str:
        """A generation that is no part of the work; its id."""
        request = {"prompt": "a red heart", "seed": 1, **fields}
        return str(self._post("/v1/generations", request)["id"])

    def cancel(self, job_id: str) -> None:
        """Ask a job to end."""
        what = "trainings" if job_id.startswith("trn_") else "generations"
        self._post(f"/v1/{what}/{job_id}/cancel", {})

    def _training(self, number: int) -> Submitted:
        answer = self._post("/v1/trainings", self._training_request(number))
        return Submitted(answer["id"], f"training {number}")

    def _training_request(self, number: int, **params: Any) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "name": "short",
            "params": {
                "seed": 100 + number,
                "max_steps": TRAINING_STEPS,
                "rank": 2,
                "alpha": 1,
                "batch_size": 2,
                "num_repeats": 2,
                "resolution": 64,
                "save_every_n_epochs": 2,
                "learning_rate": 1e-3,
                **params,
            },
            "sample_prompts": ["a red heart"],
        }

    def _generation(self, number: int) -> Submitted:
        lora = self.loras[number % len(self.loras)]
        answer = self._post(
            "/v1/generations",
            {
                "prompt": f"a red heart, number {number}",
                "seed": 1000 + number,
                # Long ones can be met in the middle of a step.
                "steps": 60 if number % 4 == 1 else 6,
                "num_images": 1 + number % 2,
                "loras": [{"lora": lora, "weight": 0.8}] if number % 3 else [],
                # One that starts from a picture is drawn alone.
                "init_image": self.picture if number % 4 < ALONE_OF_FOUR else None,
            },
        )
        return Submitted(answer["id"], f"generation {number}")

    def _upload(self) -> str:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path in sorted(PICTURES.glob("*.png"))[:PICTURE_COUNT]:
                archive.write(path, path.name)
                archive.writestr(path.with_suffix(".txt").name, path.stem.replace("-", " "))
        dataset: str = self._post(
            "/v1/datasets", {"name": "ink", "task": "style", "trigger_word": "inkstyle"}
        )["id"]
        answer = self.client.post(
            f"/v1/datasets/{dataset}/images",
            files=[("files", ("ink.zip", buffer.getvalue(), "application/zip"))],
        )
        assert answer.status_code == 201, answer.text
        self.picture = self._get(f"/v1/datasets/{dataset}/images")["data"][0]["id"]
        return dataset

    def _ended(self, job_id: str) -> str:
        ends = time.monotonic() + REFERENCE_SECONDS
        while time.monotonic() < ends:
            self.stack.tend()
            with transaction() as session:
                status = session.get_one(Job, job_id).status
            if status in TERMINAL:
                assert status == "succeeded", f"undisturbed, {job_id} {status}"
                return job_id
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"undisturbed, {job_id} took over {REFERENCE_SECONDS} s")

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST until it is taken: while Postgres is away the API says so."""
        ends = time.monotonic() + SUBMIT_SECONDS
        while True:
            answer = self.client.post(path, json=body)
            if answer.status_code < 300:
                result: dict[str, Any] = answer.json()
                return result
            assert answer.status_code >= 500, answer.text
            assert time.monotonic() < ends, answer.text
            time.sleep(0.2)

    def _get(self, path: str) -> dict[str, Any]:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result


def _may_be_batched(job: Submitted) -> bool:
    what, _, number = job.kind.partition(" ")
    return what == "generation" and int(number) % 4 >= ALONE_OF_FOUR


def _differ(made: bytes, wanted: bytes) -> bool:
    first, second = (Image.open(io.BytesIO(data)).convert("RGB") for data in (made, wanted))
    if first.size != second.size:
        return True
    return max(high for _, high in ImageChops.difference(first, second).getextrema()) > TOLERANCE
