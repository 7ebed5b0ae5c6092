"""Migrations make the schema that the models describe, keep rows, and hold no table for long."""

import logging
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, create_engine, event, insert, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.sql.ddl import sort_tables

from app.cli.embedded import EmbeddedServers
from app.database import get_engine
from app.migrate import alembic_config, upgrade
from app.settings import get_settings
from tests.app.seeded_rows import changed, rows_of, seed

REVISIONS = [
    script.revision for script in ScriptDirectory.from_config(alembic_config("")).walk_revisions()
][::-1]
# Locks that writers of a table wait for.
STRONG = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")


@pytest.fixture
def empty_database(servers: EmbeddedServers) -> Iterator[str]:  # noqa: ARG001 (order)
    """The URL of a database of its own."""
    url = make_url(get_settings().database_url)
    name = (url.database or "").removesuffix("_test") + "_migrated_test"
    with get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {name}"))
        yield url.set(database=name).render_as_string(hide_password=False)
        connection.execute(text(f"DROP DATABASE {name}"))


@pytest.fixture
def engine(empty_database: str) -> Iterator[Engine]:
    """That database, from here."""
    made = create_engine(empty_database)
    yield made
    made.dispose()


def test_the_schema_is_the_models_and_can_be_undone_and_made_again(
    empty_database: str, engine: Engine
) -> None:
    config = alembic_config(empty_database)
    for _ in range(2):
        upgrade(empty_database)
        command.check(config)
        assert unfinished(engine) == []
        command.downgrade(config, "base")
        assert inspect(engine).get_table_names() == ["alembic_version"]
        inspect(engine).clear_cache()


def unfinished(engine: Engine) -> list[str]:
    """Indexes and constraints that Postgres does not trust yet, and names that should have gone."""
    with engine.connect() as connection:
        return list(
            connection.scalars(
                text("""
                    SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid
                    UNION ALL SELECT conname FROM pg_constraint WHERE NOT convalidated
                    UNION ALL SELECT relname FROM pg_class WHERE relname LIKE 'ix%\\_new'
                """)
            )
        )


def test_every_row_lives_through_every_step_up_and_down(
    empty_database: str, engine: Engine
) -> None:
    config = alembic_config(empty_database)
    for number, revision in enumerate(REVISIONS):
        before = rows_of(engine)
        command.upgrade(config, revision)
        assert changed(before, rows_of(engine)) == [], f"by the upgrade to {revision}"
        seed(engine, number)
    before = whole = rows_of(engine)
    assert all(whole.values()), "a table has no row"
    for revision in ["base", *REVISIONS][-2::-1]:
        command.downgrade(config, revision)
        after = rows_of(engine)
        assert changed(before, after) == lost_with(revision, before), (
            f"by the downgrade to {revision}"
        )
        before = after
        if revision == REVISIONS[0]:
            of_first = after
    # From the first tables' rows everything is made anew that can be.
    assert set(of_first) < set(whole)
    assert all(of_first.values())
    upgrade(empty_database)


def lost_with(revision: str, before: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What no table of an older revision can hold."""
    if revision != "0004":
        return []
    # A captioning had to have its dataset.
    return [f"captionings {row['id']}" for row in before["captionings"] if not row["dataset_id"]]


def test_rows_of_older_revisions_get_what_newer_ones_need(
    empty_database: str, engine: Engine
) -> None:
    config = alembic_config(empty_database)
    command.upgrade(config, "0003")
    waiting = {"status": "queued", "queue": "generate", "priority": 5, "ended_at": None}
    seed(engine, 1, {"jobs": waiting, "api_keys": {"scopes": ["admin"]}})  # a revoked key
    seed(
        engine,
        2,
        {
            "jobs": {
                "status": "succeeded",
                "kind": "generation",
                "ended_at": text("'2026-03-01 23:30+00'::timestamptz"),
                "gpu_seconds": 1.5,
                "batch_size": 3,
            },
            "api_keys": {"scopes": ["admin"], "revoked_at": None},
        },
    )
    upgrade(empty_database)
    with engine.connect() as connection:
        lines = connection.execute(text("SELECT queue, account_id, priority FROM job_lines")).all()
        usage = connection.execute(text("SELECT * FROM usage_days")).mappings().all()
        roles = dict(connection.execute(text("SELECT id, role FROM accounts ORDER BY id")).all())
    assert lines == [("generate", "accounts-1", 5)]
    (day,) = usage
    assert (day["account_id"], str(day["day"]), day["kind"]) == (
        "accounts-2",
        "2026-03-01",
        "generation",
    )
    assert (day["jobs"], day["gpu_seconds"], day["images"]) == (1, 1.5, 3)
    assert roles == {"accounts-1": "customer", "accounts-2": "admin"}


@pytest.fixture
def read_under_lock() -> Iterator[Counter[str]]:
    """How many rows of each table a transaction read that also kept writers away from it.

    Postgres itself counts: what a session has read (an index that is built and a constraint that
    is checked read as well) and what it has locked, when a transaction of it is to be committed.
    """
    found: Counter[str] = Counter()
    read_before: dict[int, dict[str, int]] = {}

    def counts(connection: Connection) -> dict[str, int]:
        rows = connection.connection.cursor().execute(
            "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0)"
            " FROM pg_stat_xact_user_tables"
        )
        return dict(rows.fetchall())

    def begun(connection: Connection) -> None:
        read_before[id(connection.connection.dbapi_connection)] = counts(connection)

    def to_be_committed(connection: Connection) -> None:
        before = read_before.pop(id(connection.connection.dbapi_connection), {})
        read = counts(connection)
        locked = connection.connection.cursor().execute(
            "SELECT DISTINCT relname FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
            " WHERE pid = pg_backend_pid() AND granted AND mode = ANY(%s)",
            [list(STRONG)],
        )
        for (table,) in locked.fetchall():
            if rows := read.get(table, 0) - before.get(table, 0):
                found[table] += rows

    event.listen(Engine, "begin", begun)
    event.listen(Engine, "commit", to_be_committed)
    yield found
    event.remove(Engine, "begin", begun)
    event.remove(Engine, "commit", to_be_committed)


def test_what_counts_rows_read_under_a_lock_sees_an_index_and_a_constraint(
    engine: Engine, read_under_lock: Counter[str]
) -> None:
    for name in ("indexed", "checked", "altered"):
        with engine.begin() as connection:
            connection.execute(text(f"CREATE TABLE {name} AS SELECT generate_series(1, 500) AS n"))
    read_under_lock.clear()
    with engine.begin() as connection:
        connection.execute(text("CREATE INDEX ON indexed (n)"))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE checked ADD CHECK (n > 0)"))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE altered ADD COLUMN m integer"))
        connection.execute(text("SELECT count(*) FROM altered"))
    with engine.begin() as connection:
        connection.execute(text("SELECT count(*) FROM altered"))
    assert read_under_lock == {"indexed": 500, "checked": 500, "altered": 500}


def test_no_migration_reads_a_large_table_while_it_keeps_writers_away(
    empty_database: str, engine: Engine, read_under_lock: Counter[str]
) -> None:
    config = alembic_config(empty_database)
    command.upgrade(config, REVISIONS[0])
    seed(engine, 0)
    large = fill(engine, rows=3000)
    assert {"jobs", "job_events", "images", "captionings", "ingests", "trainings"} <= large
    for revision in REVISIONS[1:]:
        read_under_lock.clear()
        command.upgrade(config, revision)
        held = {table: rows for table, rows in read_under_lock.items() if table in large}
        assert held == {}, f"by the upgrade to {revision}"
    for revision in REVISIONS[-2::-1]:
        read_under_lock.clear()
        command.downgrade(config, revision)
        held = {table: rows for table, rows in read_under_lock.items() if table in large}
        assert held == {}, f"by the downgrade to {revision}"


def fill(engine: Engine, rows: int) -> set[str]:
    """Copy the one row of every table under new ids, but for what customers are; their names."""
    found = MetaData()
    found.reflect(engine, only=lambda name, _: name != "alembic_version")
    filled = set()
    with engine.begin() as connection:
        for table in sort_tables(found.tables.values()):
            if table.name in ("accounts", "api_keys", "datasets"):
                continue
            (row,) = connection.execute(table.select()).mappings().all()
            connection.execute(insert(table), [copy(table, row, n) for n in range(rows)])
            filled.add(table.name)
    return filled


def copy(table: Any, row: Any, number: int) -> dict[str, Any]:
    """A row under another id; its details' rows, which share the id of their job, alike."""
    last = list(table.primary_key.columns)[-1].name
    unique = {
        column.name
        for each in table.constraints
        for column in each.columns
        if type(each).__name__ == "UniqueConstraint"
    }
    changes: dict[str, Any] = {}
    for name in {last, *unique} - {"dataset_id", "training_id"}:
        value = row[name]
        changes[name] = f"{value}-{number}"[:64] if isinstance(value, str) else value + 1 + number
    return dict(row) | changes


def test_a_migration_waits_for_a_table_in_use_without_holding_others_up(
    empty_database: str, engine: Engine
) -> None:
    before, after = "0007", "0009"  # which adds a column to jobs
    command.upgrade(alembic_config(empty_database), before)
    seed(engine, 0)
    gave_up = threading.Semaphore(0)

    class Hears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "is in use" in record.getMessage():
                gave_up.release()

    hears, log = Hears(), logging.getLogger("alembic.env")
    log.addHandler(hears)
    migration = threading.Thread(
        target=command.upgrade, args=(alembic_config(empty_database), after)
    )
    try:
        with engine.begin() as reader:
            # A report that takes its time.
            assert reader.scalar(text("SELECT count(*) FROM jobs")) == 1
            migration.start()
            for _ in range(2):
                assert gave_up.acquire(timeout=60)
            # Were the migration still in line for the table, this would wait for the reader.
            with engine.begin() as writer:
                writer.execute(text("SET LOCAL lock_timeout = '20s'"))
                writer.execute(text("UPDATE jobs SET attempt = attempt + 1"))
            assert migration.is_alive()
    finally:
        migration.join(timeout=60)
        log.removeHandler(hears)
    assert not migration.is_alive()
    assert "deleted_at" in {column["name"] for column in inspect(engine).get_columns("jobs")}


class CutShort(Exception):
    """As if the power had failed just before a revision was written down as done."""


@pytest.fixture
def cut_short_once() -> Iterator[set[str]]:
    """Every step is cut short the first time; the statements that were."""
    cut: set[str] = set()

    def look(*told: Any) -> None:
        statement: str = told[2]
        writes = statement.startswith(("UPDATE", "INSERT", "DELETE"))
        if "alembic_version" in statement and writes and statement not in cut:
            cut.add(statement)
            raise CutShort

    event.listen(Engine, "before_cursor_execute", look)
    yield cut
    event.remove(Engine, "before_cursor_execute", look)


def test_a_step_that_was_cut_short_can_be_taken_again(
    empty_database: str, engine: Engine, cut_short_once: set[str]
) -> None:
    config = alembic_config(empty_database)
    for step, revisions in (
        (command.upgrade, REVISIONS),
        (command.downgrade, ["base", *REVISIONS][-2::-1]),
        (command.upgrade, REVISIONS),
    ):
        for revision in revisions:
            cut_short_once.clear()
            with pytest.raises(CutShort):
                step(config, revision)
            step(config, revision)
        if step is command.upgrade:
            command.check(config)
            assert unfinished(engine) == []


def test_an_index_that_was_cut_short_is_built_anew(empty_database: str, engine: Engine) -> None:
    command.upgrade(alembic_config(empty_database), "0013")
    seed(engine, 0)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE INDEX ix_jobs_newest ON jobs (created_at DESC, id DESC)"))
        # As Postgres leaves one whose building it could not finish.
        connection.execute(
            text(
                "UPDATE pg_index SET indisvalid = false"
                " WHERE indexrelid = 'ix_jobs_newest'::regclass"
            )
        )
    assert unfinished(engine) == ["ix_jobs_newest"]
    upgrade(empty_database)
    assert unfinished(engine) == []


def test_two_who_migrate_at_once_take_turns(empty_database: str, engine: Engine) -> None:
    program = "import sys; from app.migrate import upgrade; upgrade(sys.argv[1])"
    both = [subprocess.Popen([sys.executable, "-c", program, empty_database]) for _ in range(2)]
    assert [each.wait(timeout=120) for each in both] == [0, 0]
    with engine.connect() as connection:
        assert list(connection.scalars(text("SELECT * FROM alembic_version"))) == [REVISIONS[-1]]
