"""What the last release left behind is taken over, and its code can go on beside ours.

`tests/data/old_release/` is what `tests/upgrade/record.py` wrote of it: its database and bucket,
with jobs of every kind waiting and two running, and every statement that it sends.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, text, update
from sqlalchemy.engine import make_url
from starlette.testclient import TestClient

from app.accounts import keys
from app.broker import DELIVER_TASK, ORPHANS_TASK, SWEEP_TASK, WORK_QUEUES, WORK_TASK
from app.cli.embedded import EmbeddedServers
from app.database import get_engine, transaction
from app.doctor.objects import objects
from app.jobs import events
from app.jobs.models import Job
from app.main import create_app
from app.migrate import upgrade
from app.settings import get_settings
from app.storage import get_store
from tests.operations import backup
from worker import chores
from worker.runner import run_next
from worker.tasks import celery_app
from worker.webhooks import deliverer

RECORDED = Path(__file__).parents[1] / "data" / "old_release"
STATEMENTS: list[dict[str, Any]] = json.loads((RECORDED / "statements.json").read_text())
RELEASE: dict[str, Any] = json.loads((RECORDED / "release.json").read_text())


def columns() -> dict[tuple[str, str], Any]:
    """Every column of the schema as it is now."""
    with get_engine().connect() as connection:
        rows = connection.execute(
            text(
                "SELECT table_name, column_name, is_nullable = 'YES' AS nullable, "
                "column_default IS NOT NULL AS has_default FROM information_schema.columns "
                "WHERE table_schema = 'public'"
            )
        ).all()
    return {(row.table_name, row.column_name): row for row in rows}


@pytest.fixture(scope="module")
def taken_over(servers: EmbeddedServers) -> Iterator[dict[tuple[str, str], Any]]:  # noqa: ARG001
    """The old release's database and bucket, migrated; the columns that it had."""
    backup.wipe()
    url = make_url(get_settings().database_url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        connection.execute((RECORDED / "database.sql").read_text())  # type: ignore[call-overload]
    with tarfile.open(RECORDED / "bucket.tar") as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            get_store().put_bytes(member.name, content.read(), "application/octet-stream")
    before = columns()
    upgrade(get_settings().database_url)
    yield before
    backup.wipe()
    upgrade(get_settings().database_url)


def test_what_is_new_in_a_table_can_be_left_out_by_who_does_not_know_it(
    taken_over: dict[tuple[str, str], Any],
) -> None:
    tables = {table for table, _ in taken_over}
    now = columns()
    assert [name for name in taken_over if name not in now] == [], "columns that were dropped"
    demanding = [
        f"{table}.{column}"
        for (table, column), row in now.items()
        if table in tables
        and (table, column) not in taken_over
        and not (row.nullable or row.has_default)
    ]
    assert demanding == [], "new columns that need a default, or to be nullable"


@pytest.mark.usefixtures("taken_over")
def test_every_statement_of_the_old_release_is_one_in_the_new_schema() -> None:
    assert len(STATEMENTS) > 150
    verbs = {each["sql"].split()[0] for each in STATEMENTS}
    assert {"INSERT", "SELECT", "UPDATE", "DELETE"} <= verbs
    refused = []
    url = make_url(get_settings().database_url).set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        for number, statement in enumerate(STATEMENTS):
            try:
                # Names, types and privileges are looked up; nothing is run.
                connection.execute(f"PREPARE old_{number} AS {numbered(**statement)}")  # type: ignore[call-overload]
            except psycopg.Error as error:
                refused.append(f"{error}: {statement['sql']}")
    assert refused == []


def numbered(sql: str, types: dict[str, str]) -> str:
    """psycopg's parameters as Postgres' own, each of the type that psycopg says."""
    numbers: dict[str, int] = {}

    def number(found: "re.Match[str]") -> str:
        name = found[1]
        place = f"${numbers.setdefault(name, len(numbers) + 1)}"
        # One that is cast in the statement says its type there.
        return (
            f"CAST({place} AS {types[name]})"
            if name in types and not found[2]
            else place + found[2]
        )

    return re.sub(r"%\((\w+)\)s((?:::[A-Za-z]+)?)", number, sql).replace("%%", "%")


def test_the_old_releases_messages_are_answered() -> None:
    # What it sends is in Redis while workers are exchanged, and cannot be called back.
    assert (
        {WORK_TASK, SWEEP_TASK, ORPHANS_TASK, DELIVER_TASK}
        == {
            "lorawright.work",
            "lorawright.sweep",
            "lorawright.orphans",
            "lorawright.deliver",
        }
        <= set(celery_app.tasks)
    )
    assert {"ingest", "caption", "train", "generate"} <= set(WORK_QUEUES)


def test_its_jobs_are_finished_and_its_killed_training_goes_on_from_its_state(
    taken_over: object,  # noqa: ARG001 (order)
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with transaction() as session:
        _, secret = keys.create_key(session, RELEASE["account"], "after the upgrade")
    assert not [found for found in objects(hashes=True) if found.level == "problem"]
    with TestClient(create_app(), headers={"Authorization": f"Bearer {secret}"}) as client:
        for job_id in RELEASE["ended"]:
            assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "succeeded"
        killed = RELEASE["killed_training"]
        unfinished = [*RELEASE["waiting"], *RELEASE["running"], killed]
        chores.sweep()
        with transaction() as session:
            # Lost workers' jobs are tried again after a pause.
            session.execute(
                update(Job)
                .where(Job.not_before.is_not(None))
                .values(not_before=Job.created_at - timedelta(hours=1))
            )
        for queue in WORK_QUEUES:
            while run_next(queue):
                pass
        ended = {job_id: client.get(f"/v1/jobs/{job_id}").json() for job_id in unfinished}
        assert {job_id: job["error"] for job_id, job in ended.items() if job["error"]} == {}
        assert {job["status"] for job in ended.values()} == {"succeeded"}
        with transaction() as session:
            told = [event.payload for event in events.read_after(session, killed, 0, 10_000)]
            kinds = set(session.scalars(select(Job.kind)))
        going_on = f"going on from step {RELEASE['killed_after_step']}"
        assert going_on in [payload.get("message") for payload in told]
        assert kinds == {
            *("ingest", "captioning", "training", "generation", "comparison", "lora_tool")
        }
    chores.sweep()
    deliverer.join()
    assert not [found for found in objects(hashes=True) if found.level == "problem"]
