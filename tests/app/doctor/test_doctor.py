"""The doctor finds what is wrong with real servers, names it, and is silent where nothing is."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import String, delete, func, text, update

from app.broker import MAINTENANCE, WORK_QUEUES, get_redis
from app.cli.embedded import EmbeddedServers
from app.cli.stack.state import save_state
from app.database import get_engine, transaction, utc_now
from app.doctor import configuration, examination, objects, rows, servers, work
from app.doctor.findings import MOST_OF_A_KIND, Finding, at_most, problem
from app.jobs.models import Job, JobLine
from app.metrics import totals
from app.metrics.models import Sweeper
from app.settings import Settings, get_settings
from app.storage import get_store
from app.tables import metadata
from app.workers import service as workers
from app.workers.service import Report
from tests.pictures import picture

Change = Callable[..., Settings]


@pytest.fixture(autouse=True)
def _at_work(clean: EmbeddedServers) -> None:  # noqa: ARG001 (order)
    """An installation that is well: an empty bucket, a worker at every queue, a sweep just now."""
    get_store().delete(get_store().list_keys("accounts/"))
    be_alive("here:1")
    with transaction() as session:
        totals.note_sweep(session)


def be_alive(worker_id: str, *queues: str) -> None:
    with transaction() as session:
        told = Report(worker_id, queues or (*WORK_QUEUES, MAINTENANCE), "1", utc_now())
        workers.report(session, told)


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Change:
    """Have the doctor see other settings."""

    def to(**values: Any) -> Settings:
        settings = get_settings().model_copy(update=values)
        for module in (configuration, objects, servers, work):
            monkeypatch.setattr(module, "get_settings", lambda: settings)
        return settings

    return to


def wrong(findings: Iterator[Finding]) -> list[tuple[str, str]]:
    return [(each.check, each.level) for each in findings if each.level != "ok"]


def run(servers_: EmbeddedServers, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "app.cli.main", "doctor", *arguments],
        env=servers_.environment()
        | {
            "LORAWRIGHT_DEFAULT_BASE_MODEL": "emoji-64",
            "LORAWRIGHT_DEFAULT_CAPTIONER": "emoji-blip",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_where_all_is_well_it_says_so_and_ends_with_0(clean: EmbeddedServers) -> None:
    told = run(clean, "--json", "--objects", "--hashes")
    assert told.returncode == 0, told.stdout + told.stderr
    answer = json.loads(told.stdout)
    assert answer["status"] == "ok"
    checks = {finding["check"]: finding["level"] for finding in answer["findings"]}
    for check in ("postgres", "schema", "redis", "s3", "s3.presigned", "sweeper", "objects"):
        assert checks[check] == "ok"
    assert get_store().list_keys(servers.PROBE_PREFIX) == []


@pytest.mark.own_servers
def test_without_variables_it_looks_at_the_stack_of_its_folder(
    clean: EmbeddedServers, tmp_path: Path
) -> None:
    save_state(tmp_path, clean.state)
    told = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "doctor", "--data-dir", str(tmp_path)],
        env={name: value for name, value in os.environ.items() if name[:11] != "LORAWRIGHT_"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert f":{clean.state.ports['postgres']}/" in told.stdout


def test_what_is_wrong_ends_with_1_and_says_what_to_do(clean: EmbeddedServers) -> None:
    with transaction() as session:
        session.execute(delete(Sweeper))
    told = run(clean)
    assert told.returncode == 1
    (line,) = [line for line in told.stdout.splitlines() if line.startswith("problem")]
    assert line.split("\t")[1:3] == ["sweeper", "no sweep was ever done"]
    assert "celery beat" in line.split("\t")[3]


def test_servers_that_are_away_are_told_once_and_without_passwords(clean: EmbeddedServers) -> None:
    away = clean.environment() | {
        "LORAWRIGHT_DATABASE_URL": "postgresql+psycopg://me:hidden@127.0.0.1:1/lorawright",
        "LORAWRIGHT_REDIS_URL": "redis://:hidden@127.0.0.1:1/0",
    }
    told = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "doctor"],
        env=away,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1, told.stderr
    checks = [line.split("\t")[1] for line in told.stdout.splitlines() if line[:7] == "problem"]
    assert checks == ["postgres", "redis"]
    assert "hidden" not in told.stdout + told.stderr


def test_a_redis_that_evicts_is_a_problem() -> None:
    get_redis().config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert wrong(servers.broker()) == [("redis", "problem")]
    finally:
        get_redis().config_set("maxmemory-policy", "noeviction")
    assert wrong(servers.broker()) == []


@pytest.mark.parametrize(
    ("revision", "level"), [("0014", "problem"), ("9999", "warning"), (None, "problem")]
)
def test_a_schema_that_is_not_the_codes_is_found(revision: str | None, level: str) -> None:
    with get_engine().begin() as connection:
        before = connection.scalar(text("SELECT version_num FROM alembic_version"))
        connection.execute(
            text("UPDATE alembic_version SET version_num = :to"), {"to": revision or ""}
        )
        if revision is None:
            connection.execute(text("DELETE FROM alembic_version"))
    try:
        assert ("schema", level) in wrong(servers.postgres())
    finally:
        with get_engine().begin() as connection:
            connection.execute(text("DELETE FROM alembic_version"))
            connection.execute(text("INSERT INTO alembic_version VALUES (:was)"), {"was": before})


def test_transactions_that_see_another_time_or_may_not_write_are_found() -> None:
    with get_engine().connect() as connection:
        connection.execute(text("SET transaction_isolation = 'repeatable read'"))
        assert wrong(servers._postgres_settings(connection)) == [("postgres", "problem")]
        connection.rollback()
        connection.execute(text("SET TRANSACTION READ ONLY"))
        assert wrong(servers._postgres_settings(connection)) == [("postgres", "problem")]


def test_a_bucket_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_store(), "_bucket", "lorawright-elsewhere")
    assert wrong(servers.storage()) == [("s3", "problem")]


@pytest.mark.parametrize(
    ("values", "level", "words"),
    [
        ({"lease_seconds": 15.0, "heartbeat_seconds": 10.0}, "problem", "late heartbeat"),
        ({"sweep_seconds": 90.0}, "warning", "lost jobs wait"),
        ({"orphan_age_seconds": 60.0}, "warning", "taken for orphans"),
        ({"session_secret": None}, "warning", "LORAWRIGHT_SESSION_SECRET"),
        ({"s3_secret_access_key": None}, "problem", "only one of"),
        ({"default_base_model": "sdxl-9"}, "problem", "sdxl-9"),
        ({"catalog_path": Path("nowhere.toml")}, "problem", "cannot be used"),
    ],
)
def test_settings_that_contradict_are_told(
    change: Change, values: dict[str, Any], level: str, words: str
) -> None:
    change(**values)
    found = [each for each in configuration.configuration({}) if words in each.text]
    assert [each.level for each in found] == [level]


def test_a_variable_that_is_no_setting_is_told() -> None:
    found = [each.text for each in configuration.configuration({"LORAWRIGHT_LEASE_SECOND": "9"})]
    assert "LORAWRIGHT_LEASE_SECOND is no setting, and does nothing" in found


def submit(client: Any) -> str:
    answer = client.post("/v1/generations", json={"prompt": "a fox"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def change_job(job_id: str, **values: Any) -> None:
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


HOUR = timedelta(hours=1)


def test_jobs_at_a_queue_without_workers_are_a_problem_and_an_idle_queue_a_warning(
    client: Any,
) -> None:
    with transaction() as session:
        workers.leave(session, "here:1")
    be_alive("here:2", "ingest", MAINTENANCE)
    queues = ("caption", "train", "generate")
    assert wrong(work.work()) == [(f"workers.{queue}", "warning") for queue in queues]
    submit(client)
    assert ("workers.generate", "problem") in wrong(work.work())


def test_a_queue_whose_workers_are_all_drained_is_a_problem() -> None:
    with transaction() as session:
        workers.give_order(session, "here:1", "hold")
    assert ("workers.train", "problem") in wrong(work.work())


def test_a_job_that_idle_workers_leave_alone_is_told(client: Any) -> None:
    job_id = submit(client)
    assert wrong(work.work()) == []
    change_job(job_id, created_at=func.now() - HOUR)
    assert wrong(work.work()) == [("queue.generate", "problem")]
    # While the worker has another job, this one only waits for its turn.
    change_job(
        submit(client), status="running", worker_id="here:1", lease_expires_at=utc_now() + HOUR
    )
    assert wrong(work.work()) == []


def test_jobs_in_closed_lines_lost_jobs_and_jobs_begun_again_and_again_are_told(
    client: Any,
) -> None:
    job_id = submit(client)
    with transaction() as session:
        session.execute(update(JobLine).values(waiting=False))
    assert wrong(work.work()) == [("queue.closed", "problem")]
    change_job(job_id, status="running", worker_id="w", lease_expires_at=func.now() - HOUR)
    assert wrong(work.work()) == [("sweeper", "problem")]
    change_job(job_id, attempt=work.MANY_ATTEMPTS, lease_expires_at=func.now() + HOUR)
    assert wrong(work.work()) == [("jobs.attempts", "warning")]


def test_every_column_that_holds_a_key_is_looked_at() -> None:
    statements = " ".join(str(place.statement) for place in rows.PLACES)
    columns = {
        (table.name, column.name)
        for table in metadata.sorted_tables
        for column in table.columns
        if column.name.endswith("_key") and isinstance(column.type, String)
        # What is doomed is named by nothing else; this key is for batches.
        if (table.name, column.name)
        not in {("doomed_objects", "object_key"), ("jobs", "batch_key")}
    }
    assert len(columns) >= 9
    for table, column in columns:
        assert any(
            f"FROM {table}" in str(place.statement) and column in str(place.statement)
            for place in rows.PLACES
        ), f"{table}.{column}"
    assert "state -> 'files'" in statements


@pytest.fixture
def keys(client: Any) -> list[str]:
    """Objects that rows name: pictures of a dataset, and what a waiting training will read."""
    request = {"name": "ink", "task": "style", "trigger_word": "inkstyle"}
    dataset = client.post("/v1/datasets", json=request).json()["id"]
    files = [("files", (f"{n}.png", picture(n), "image/png")) for n in range(5)]
    client.post(f"/v1/datasets/{dataset}/images", files=files)
    assert client.post("/v1/trainings", json={"dataset": dataset, "name": "x"}).status_code == 201
    return sorted(get_store().list_keys("accounts/"))


@pytest.mark.parametrize("page", [1, 2, 500])
def test_pages_of_any_size_name_every_object(
    keys: list[str], page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        rows,
        "PLACES",
        tuple(rows.Place(place.name, place.statement, page) for place in rows.PLACES),
    )
    named = [named for page_ in rows.pages() for named in page_]
    by_images = [each.object_key for each in named if each.shown_by.startswith("image img_")]
    by_job = [each.object_key for each in named if each.shown_by.startswith("needed by trn_")]
    assert sorted(by_images) == sorted(by_job) == keys
    assert all(each.sha256 is not None for each in named)


def test_an_object_that_is_gone_shortened_or_changed_is_told_with_all_that_name_it(
    keys: list[str],
) -> None:
    gone, short, changed, *_ = keys
    store = get_store()
    store.delete([gone])
    content = store.get_bytes(changed)
    store.put_bytes(short, store.get_bytes(short)[:-1], "image/png")
    store.put_bytes(changed, content[:-1] + bytes([content[-1] ^ 1]), "image/png")

    def told(*, hashes: bool) -> set[tuple[str, str | None]]:
        found = objects.objects(hashes=hashes)
        return {(each.check, each.object_key) for each in found if each.level == "problem"}

    by_size = {("objects.missing", gone), ("objects.size", short)}
    assert told(hashes=False) == by_size
    # The job that waits knows hashes alone.
    by_hash = {("objects.hash", short), ("objects.hash", changed)}
    assert told(hashes=True) == by_size | by_hash


def test_what_was_deleted_while_it_was_looked_for_is_missed_by_nobody(keys: list[str]) -> None:
    found = [
        problem("objects.missing", "x", "y", keys[0]),
        problem("objects.missing", "x", "y", keys[0].replace("images/", "images/0")),
    ]
    assert [each.object_key for each in objects._still_needed(found)] == [keys[0]]


def test_orphans_are_told_apart_from_young_and_from_doomed_objects(
    keys: list[str], change: Change
) -> None:
    account = keys[0].split("/")[1]
    orphan = f"accounts/{account}/images/orphan.png"
    get_store().put_bytes(orphan, b"x", "image/png")
    assert wrong(objects.objects(hashes=False)) == []
    assert "1 without a row are younger" in list(objects.objects(hashes=False))[-1].text
    change(orphan_age_seconds=0.0)
    # Storage tells times to the second.
    (found,) = [
        each
        for each in objects.objects(hashes=False)
        if each.check == "objects.orphan" or "1 without a row" in each.text
    ]
    assert found.level == "warning"
    assert orphan in found.text


def test_of_thousands_alike_a_hundred_are_told_and_all_counted() -> None:
    thousand = (problem("objects.missing", str(n), "look") for n in range(1000))
    found = list(at_most(thousand))
    assert len(found) == MOST_OF_A_KIND + 1
    assert found[-1].text == "900 more like these; 1000 in all"


def test_where_a_server_is_away_nothing_is_said_of_what_rests_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examination, "broker", lambda: iter([problem("redis", "away", "start it")]))
    checks = {each.check for each in examination.examine(with_objects=True, with_hashes=False)}
    assert not any(check.startswith(("workers", "objects", "sweeper")) for check in checks)
