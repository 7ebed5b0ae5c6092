"""`lorawright jobs`: one line a job, for people or for programs."""

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli.main import app

runner = CliRunner()


def test_programs_get_fields_parted_by_tabs(connected: TestClient) -> None:
    jobs = [connected.post("/v1/generations", json={"prompt": "a fox"}).json() for _ in range(2)]
    lines = runner.invoke(app, ["jobs"]).output.splitlines()
    assert [line.split("\t")[:4] for line in lines] == [
        [job["id"], "generation", "queued", "0%"] for job in reversed(jobs)
    ]


@pytest.mark.usefixtures("connected")
def test_no_jobs_is_said_in_words() -> None:
    assert runner.invoke(app, ["jobs"]).output == "No jobs.\n"
