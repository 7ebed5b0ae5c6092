"""What is seen of a job from outside: one trace through every process, figures, and log lines."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.cli.embedded import EmbeddedServers
from app.settings import REPOSITORY
from tests.e2e.conftest import Service, Watching
from tests.otlp import Span
from tests.pictures import picture
from worker.metrics import WORKER

STEPS = 12
TRAINING_REQUEST = "request-of-the-training"
BATCH_REQUEST = "request-of-the-batch"


@dataclass
class Seen:
    """A training, and two generations that were drawn as one batch."""

    training: dict[str, Any]
    batch: list[dict[str, Any]]
    spans: list[Span]
    lines: list[dict[str, Any]]

    def of(self, job_id: str) -> Span:
        """The span of a job's attempt."""
        [span] = [
            span
            for span in self.spans
            if span.name.startswith("job ") and span.attributes["lorawright.job.id"] == job_id
        ]
        return span

    def within(self, parent: Span) -> dict[str, Span]:
        """The spans under another, by their names."""
        return {span.name: span for span in self.spans if span.parent == parent.id}


@pytest.fixture(scope="module")
def seen(service: Service, servers: EmbeddedServers, watching: Watching) -> Seen:
    """Both, from POST to end; the worker that trains draws afterwards."""
    dataset = service.post(
        "/v1/datasets", {"name": "few", "task": "style", "trigger_word": "fewstyle"}
    )["id"]
    files = [("files", (f"{n}.png", picture(n), "image/png")) for n in range(6)]
    texts = [("files", (f"{n}.txt", b"a thing", "text/plain")) for n in range(6)]
    answer = service.client.post(f"/v1/datasets/{dataset}/images", files=files + texts)
    assert answer.status_code == 201, answer.text
    drawing = {"prompt": "a red apple", "steps": 3}
    # Loads the base model, without which there is no batch.
    first = service.post("/v1/generations", drawing)
    service.succeed(f"/v1/generations/{first['id']}")
    asked = {
        "dataset": dataset,
        "name": "few",
        "params": {"max_steps": STEPS, "rank": 4},
        "sample_prompts": ["a thing, fewstyle"],
    }
    headers = {"X-Request-Id": TRAINING_REQUEST}
    training = service.client.post("/v1/trainings", json=asked, headers=headers).json()
    # Only then, so that both wait until it is done.
    service.wait(f"/v1/trainings/{training['id']}", lambda job: job["status"] == "running")
    headers = {"X-Request-Id": BATCH_REQUEST}
    batch = [
        service.client.post("/v1/generations", json=drawing | {"seed": n}, headers=headers).json()
        for n in range(2)
    ]
    training = service.succeed(f"/v1/trainings/{training['id']}")
    batch = [service.succeed(f"/v1/generations/{job['id']}") for job in batch]
    wanted = {training["id"], *(job["id"] for job in batch)}
    spans = watching.traces.wait(
        lambda spans: wanted <= {span.attributes.get("lorawright.job.id") for span in spans}
    )
    log = (servers.data_dir / "logs" / "worker.log").read_text().splitlines()
    return Seen(training, batch, spans, [json.loads(line) for line in log if line[:1] == "{"])


def test_one_trace_goes_from_the_request_to_the_trainers_steps(seen: Seen) -> None:
    attempt = seen.of(seen.training["id"])
    [posted] = [span for span in seen.spans if span.id == attempt.parent]
    assert (posted.service, posted.name) == ("lorawright-api", "POST /v1/trainings")
    assert posted.parent == ""
    assert attempt.service == "lorawright-worker"
    assert attempt.attributes["lorawright.request.id"] == TRAINING_REQUEST
    assert attempt.attributes["lorawright.outcome"] == "succeeded"
    assert 0 <= attempt.attributes["lorawright.queue.wait_seconds"] < 300
    parts = seen.within(attempt)
    assert set(parts) >= {
        "download",
        "trainer load",
        "trainer prepare",
        "trainer steps",
        "trainer checkpoint",
        "upload",
        "publish",
    }
    assert {span.trace for span in (posted, attempt, *parts.values())} == {posted.trace}
    for part in parts.values():
        assert attempt.began <= part.began <= part.ended <= attempt.ended, part
    trained = [
        span for span in seen.spans if span.parent == attempt.id and span.name == "trainer steps"
    ]
    steps = sorted(
        (span.attributes["lorawright.first_step"], span.attributes["lorawright.last_step"])
        for span in trained
    )
    assert steps[0][0] == 1
    assert steps[-1][1] == STEPS
    assert [first for first, _ in steps[1:]] == [last + 1 for _, last in steps[:-1]]


def test_jobs_drawn_as_one_batch_have_traces_of_their_own_that_link_to_each_other(
    seen: Seen,
) -> None:
    one, other = (seen.of(job["id"]) for job in seen.batch)
    assert one.trace != other.trace
    assert (one.links, other.links) == ((other.id,), (one.id,))
    for span in (one, other):
        assert {"download", "upload", "publish"} <= set(seen.within(span))
    # What was done once, for both, is told of the one that was claimed first.
    [drawn] = [found for found in map(seen.within, (one, other)) if "denoise" in found]
    assert drawn["denoise"].attributes["lorawright.pictures"] == 2
    assert {"prompt", "decode"} <= set(drawn)
    assert [span.name for span in seen.spans if span.parent == drawn["denoise"].id] == ["switch"]


def test_log_lines_of_worker_and_trainer_say_whose_they_are(seen: Seen) -> None:
    def about(job_id: str) -> list[dict[str, Any]]:
        return [line for line in seen.lines if line.get("job_id") == job_id]

    told = about(seen.training["id"])
    assert {line["request_id"] for line in told} == {TRAINING_REQUEST}
    assert {line["attempt"] for line in told} == {1}
    [account] = {line["account_id"] for line in told}
    assert account.startswith("acct_")
    assert {line["logger"] for line in told} >= {"worker.runner", "worker.trainer"}
    for job in seen.batch:
        lines = about(job["id"])
        assert {line["request_id"] for line in lines} == {BATCH_REQUEST}
        assert "succeeded" in {line["event"] for line in lines}


def test_a_worker_tells_every_figure_that_is_described_and_no_other(
    seen: Seen, watching: Watching
) -> None:
    assert seen.training["status"] == "succeeded"
    texts = {
        name: httpx.get(f"http://127.0.0.1:{port}/metrics").text
        for name, port in watching.ports.items()
    }
    told = {line.split()[2] for line in texts["worker"].splitlines() if line.startswith("# TYPE")}
    assert {name for name in told if not name.startswith("process_")} == {
        one.name for one in WORKER.described
    }
    found = {
        (sample.name.removeprefix("lorawright_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(texts["worker"])
        for sample in family.samples
    }
    assert found["worker_jobs_total", "", "succeeded", "training"] >= 1
    assert found["worker_jobs_total", "", "generation", "succeeded"] >= 3
    assert found["worker_job_seconds_count", "training"] >= 1
    assert found["worker_first_step_seconds_count", "training"] >= 1
    assert found["training_steps_total",] >= STEPS
    assert found["training_images_total",] >= STEPS
    assert found["training_step_seconds_count",] == found["training_steps_total",]
    assert found["training_images_per_second",] == 0, "none is trained now"
    assert found["worker_pictures_total",] >= 3
    assert found["worker_denoise_steps_total",] >= 9
    assert found["worker_batch_pictures_sum",] >= 3
    for stage in ("download", "load", "prepare", "checkpoint", "upload", "publish"):
        assert found["worker_stage_seconds_count", *sorted(("training", stage))] >= 1
    for stage in ("download", "load", "prompt", "switch", "denoise", "decode", "upload", "publish"):
        assert found["worker_stage_seconds_count", *sorted(("generation", stage))] >= 1
    assert found["lease_renewals_total", "in_time"] >= 1
    assert 0 < found["worker_disk_free_bytes",] < found["worker_disk_bytes",]


def test_a_healthcheck_finds_the_workers_alive(
    seen: Seen, service: Service, tmp_path: Path
) -> None:
    assert seen.training["status"] == "succeeded"

    def check(**variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "worker.alive"],
            cwd=REPOSITORY,
            env={**os.environ, **service.worker.spec.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    assert check().returncode == 0
    elsewhere = check(LORAWRIGHT_WORK_DIR=str(tmp_path))
    assert elsewhere.returncode == 1
    assert "no worker process has reported" in elsewhere.stderr
