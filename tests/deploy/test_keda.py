"""The examples for Kubernetes can be read, fit together, and ask what the database answers."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import text

from app.accounts import service as accounts
from app.database import get_engine, new_id, transaction
from app.jobs import backlog, claiming, lifecycle, service
from app.settings import REPOSITORY, Settings
from worker.lease import STOP_MARGIN_SECONDS

FOLDER = REPOSITORY / "deploy" / "keda"
GPU_QUEUES = "caption,train,generate"


def read(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def workers_wanted() -> int:
    trigger = read("scaled-object-postgresql.yaml")[0]["spec"]["triggers"][0]
    assert trigger["metadata"]["targetQueryValue"] == "1"
    with get_engine().connect() as connection:
        row = connection.execute(text(trigger["metadata"]["query"])).one()
    assert len(row) == 1
    return int(row[0])


def submit(account_id: str, count: int, kind: str = "generation", queue: str = "generate") -> None:
    with transaction() as session:
        for _ in range(count):
            service.submit(
                session, job_id=new_id("gen"), kind=kind, queue=queue, account_id=account_id
            )


@pytest.fixture
def account(clean) -> str:  # noqa: ARG001 (order)
    with transaction() as session:
        return accounts.create_account(session, "ours").id


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_each_document_says_what_it_is(path: Path):
    for document in yaml.safe_load_all(path.read_text()):
        assert document["apiVersion"] in ("apps/v1", "keda.sh/v1alpha1")
        assert document["kind"] in ("Deployment", "ScaledObject", "TriggerAuthentication")
        assert document["metadata"]["name"]


def test_both_autoscalers_scale_the_worker_that_is_deployed():
    name = read("worker.yaml")[0]["metadata"]["name"]
    for file in ("scaled-object-prometheus.yaml", "scaled-object-postgresql.yaml"):
        assert read(file)[0]["spec"]["scaleTargetRef"]["name"] == name
    scaled, authentication = read("scaled-object-postgresql.yaml")
    trigger = scaled["spec"]["triggers"][0]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]


def test_a_pod_is_given_the_time_that_a_stop_may_take():
    pod = read("worker.yaml")[0]["spec"]["template"]["spec"]
    default = Settings.model_fields["graceful_stop_seconds"].default
    assert pod["terminationGracePeriodSeconds"] > default + STOP_MARGIN_SECONDS


def test_the_worker_serves_the_queues_that_are_scaled_by():
    container = read("worker.yaml")[0]["spec"]["template"]["spec"]["containers"][0]
    assert f"-Q={GPU_QUEUES}" in container["args"]
    query = read("scaled-object-prometheus.yaml")[0]["spec"]["triggers"][0]["metadata"]["query"]
    assert query.count(GPU_QUEUES.replace(",", "|")) == 2
    names = {entry["name"] for entry in container["env"]} - {"POD_NAME"}
    known = {f"LORAWRIGHT_{name.upper()}" for name in Settings.model_fields}
    assert names <= known


def test_no_worker_is_wanted_where_nothing_waits(account: str):
    submit(account, 3, "ingest", "ingest")
    assert workers_wanted() == 0


def test_workers_are_wanted_for_the_seconds_that_wait(account: str):
    submit(account, 1, "training", "train")
    with transaction() as session:
        seconds = backlog.queue_seconds(session)["train"]
    # A lone job can use one worker, however long it takes.
    assert seconds > 600
    assert workers_wanted() == 1
    submit(account, 2, "training", "train")
    assert workers_wanted() == 3
    submit(account, 20)
    assert workers_wanted() == 8, "an account may use no more"


def test_those_at_work_are_kept_and_what_ended_tells_how_long_the_rest_takes(account: str):
    submit(account, 5)
    with transaction() as session:
        done = claiming.claim(session, "generate", "w")
        assert done is not None
        lifecycle.finish(session, done, "succeeded", gpu_seconds=900.0)
        assert claiming.claim(session, "generate", "w") is not None
    # One is at work; three wait for 900 s each, and as many could have a worker.
    assert math.ceil(3 * 900 / 600) == 5
    assert workers_wanted() == 1 + 3


def test_a_suspended_account_needs_no_worker(account: str):
    submit(account, 5)
    with transaction() as session:
        accounts.suspend(session, accounts.get(session, account, to_change=True), "unpaid")
    assert workers_wanted() == 0
