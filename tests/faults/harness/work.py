"""The work that is disturbed: short trainings and generations of a few kinds, through the API."""

import io
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from app.database import transaction
from app.jobs.models import TERMINAL, Job
from tests.faults.harness.stack import Stack

PICTURES = Path(__file__).parents[3] / "examples" / "ink-style"
PICTURE_COUNT = 6
TRAINING_STEPS = 24
REFERENCE_SECONDS = 180.0
POLL_SECONDS = 0.05
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
    loras: list[str] = field(default_factory=list)
    # Kind to SHA-256 of the LoRA, or of the pictures in order.
    reference: dict[str, list[str]] = field(default_factory=dict)
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
            self.reference[job.kind] = self.results(self._ended(job.job_id))

    def submit_training(self, number: int) -> None:
        """One more training, of the kind that `number` falls on."""
        self.jobs.append(self._training(number % self.training_kinds))

    def submit_generation(self, number: int) -> None:
        """One more generation."""
        self.jobs.append(self._generation(number % self.generation_kinds))

    def results(self, job_id: str) -> list[str]:
        """SHA-256 of what a job has published."""
        if job_id.startswith("trn_"):
            lora = self._get(f"/v1/trainings/{job_id}")["lora"]
            return [self._get(f"/v1/loras/{lora}")["sha256"]]
        with transaction() as session:
            from app.generations.models import GeneratedImage

            rows = session.query(GeneratedImage).filter_by(generation_id=job_id)
            return [row.sha256 for row in rows.order_by(GeneratedImage.index)]

    def _training(self, number: int) -> Submitted:
        answer = self._post(
            "/v1/trainings",
            {
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
                },
                "sample_prompts": ["a red heart"],
            },
        )
        return Submitted(answer["id"], f"training {number}")

    def _generation(self, number: int) -> Submitted:
        lora = self.loras[number % len(self.loras)]
        answer = self._post(
            "/v1/generations",
            {
                "prompt": f"a red heart, number {number}",
                "seed": 1000 + number,
                "steps": 6,
                "num_images": 1 + number % 2,
                "loras": [{"lora": lora, "weight": 0.8}] if number % 3 else [],
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
            assert answer.status_code >= 500 and time.monotonic() < ends, answer.text
            time.sleep(0.2)

    def _get(self, path: str) -> dict[str, Any]:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result
