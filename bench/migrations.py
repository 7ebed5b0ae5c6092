"""How long a service at work waits for locks while each migration runs, with a million jobs.

    python -m bench.migrations [--jobs N] [--rows N] [--versions FOLDER] [--json FILE]

Fills a database at revision 0002, before the first migration that touches tables of jobs. Then one
migration after the other runs, while three connections go on queueing, claiming, ending and listing
jobs, as the service does, in statements that every revision understands.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.script import ScriptDirectory

from app.cli.stack.ports import free_port
from app.cli.stack.postgres import database_url, ensure_database, postgres_child
from app.migrate import alembic_config
from bench import machine

FILLED_AT = "0002"
AIM_SECONDS = 1.0
SAMPLE_SECONDS = 0.01
# How long the load runs before and after a migration.
AROUND_SECONDS = 0.5
APPLICATION = "bench-load"

FILL = """
INSERT INTO accounts (id, name) SELECT 'acct' || n, 'bench' FROM generate_series(1, 1000) AS n;
INSERT INTO api_keys (id, account_id, name, prefix, secret_sha256, scopes)
    SELECT 'key' || n, 'acct' || n, 'bench', 'lw', md5(n::text), '["read"]'
    FROM generate_series(1, 1000) AS n;
INSERT INTO datasets (id, account_id, name, task, trigger_word, caption_template)
    SELECT 'ds' || n, 'acct' || n, 'bench', 'style', 'bench', '' FROM generate_series(1, 1000) AS n;
INSERT INTO jobs (id, kind, queue, account_id, status, priority, attempt, failures, max_attempts,
        progress_fraction, gpu_seconds, event_seq, metadata, created_at, started_at, ended_at)
    SELECT 'job' || n,
        (ARRAY['generation', 'generation', 'ingest', 'captioning', 'training'])[1 + n % 5],
        'generate', 'acct' || 1 + (n::bigint * 7919) % 1000,
        CASE WHEN n % 3 = 0 THEN 'queued' ELSE 'succeeded' END, 0, 1, 0, 3, 0, 1, 2, '{{}}',
        now() - interval '60 days' + n * interval '5 seconds',
        CASE WHEN n % 3 > 0 THEN now() - interval '60 days' + n * interval '5 seconds' END,
        CASE WHEN n % 3 > 0 THEN now() - interval '60 days' + n * interval '5 seconds' END
    FROM generate_series(1, {jobs}) AS n;
INSERT INTO job_events (job_id, seq, type, payload)
    SELECT id, 1, 'status', '{{"status": "queued"}}' FROM jobs;
INSERT INTO generations (id, base_model, request, loras, lora_reports)
    SELECT id, 'emoji-64', '{{}}', '[]', '[]' FROM jobs WHERE kind = 'generation';
INSERT INTO ingests (id, dataset_id)
    SELECT id, 'ds' || 1 + hashtext(id) % 500 + 499 FROM jobs WHERE kind = 'ingest';
INSERT INTO captionings (id, dataset_id, captioner, overwrite, images_captioned)
    SELECT id, 'ds' || 1 + hashtext(id) % 500 + 499, 'blip', 'missing', 1
    FROM jobs WHERE kind = 'captioning';
INSERT INTO trainings (id, dataset_id, name, base_model, preset, spec, warnings)
    SELECT id, 'ds' || 1 + hashtext(id) % 500 + 499, 'bench', 'emoji-64', 'style', '{{}}', '[]'
    FROM jobs WHERE kind = 'training';
INSERT INTO images (id, dataset_id, filename, sha256, object_key, bytes, width, height, format,
        excluded)
    SELECT 'img' || n, 'ds' || 1 + n % 1000, 'a.png', md5(n::text), 'images/' || n, 1, 64, 64,
        'png', false
    FROM generate_series(1, {rows}) AS n;
INSERT INTO training_metrics (training_id, step, epoch, loss)
    SELECT id, step, 1, 0.1 FROM generate_series(1, 10) AS step,
        (SELECT id FROM jobs WHERE kind = 'training' LIMIT {rows} / 10) AS chosen;
"""
# The tables whose statements must not be held up, with what the service does to them all the time.
QUEUE = """
INSERT INTO jobs (id, kind, queue, account_id, status, priority, attempt, failures, max_attempts,
    progress_fraction, gpu_seconds, event_seq, metadata{columns})
VALUES (%(id)s, 'ingest', 'generate', %(account)s, 'queued', 0, 0, 0, 3, 0, 0, 1, '{{}}'{values})
"""
TELL = "INSERT INTO job_events (job_id, seq, type, payload) VALUES (%(id)s, 1, 'status', '{}')"
DETAIL = "INSERT INTO ingests (id, dataset_id) VALUES (%(id)s, %(dataset)s)"
CLAIM = """
UPDATE jobs SET status = 'running', attempt = attempt + 1, started_at = now(),
    lease_expires_at = now() + interval '60 s'
WHERE id = (SELECT id FROM jobs WHERE id = %(id)s AND status = 'queued' FOR UPDATE SKIP LOCKED)
"""
FINISH = "UPDATE jobs SET status = 'succeeded', ended_at = now() WHERE id = %(id)s"
READ = (
    "SELECT scopes FROM api_keys JOIN accounts ON accounts.id = account_id"
    " WHERE secret_sha256 = md5('7')",
    "SELECT id, status FROM jobs WHERE id = %(id)s",
    "SELECT count(*) FROM job_events WHERE job_id = %(id)s",
    "SELECT caption FROM images WHERE dataset_id = %(dataset)s LIMIT 20",
    "UPDATE images SET caption = 'told' WHERE id = %(image)s",
    "SELECT count(*) FROM captionings WHERE id = 'job3'",
    "SELECT name FROM trainings WHERE id = 'job4'",
)


@dataclass
class Load:
    """What the service's connections saw while a migration ran."""

    statements: int = 0
    # Rows that the code of the revision before may no longer insert.
    refused: int = 0
    longest_statement: float = 0.0
    longest_lock_wait: float = 0.0
    waited_for: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, seconds: float) -> None:
        """Count a statement."""
        with self.lock:
            self.statements += 1
            self.longest_statement = max(self.longest_statement, seconds)


def main() -> None:
    """Measure and print."""
    args = _arguments()
    found: dict[str, Any] = {
        **machine.described(),
        "jobs": args.jobs,
        "migrations": {},
    }
    with _database() as (url, plain):
        config = alembic_config(url)
        if args.versions is not None:
            config.set_main_option("script_location", str(args.versions))
        command.upgrade(config, FILLED_AT)
        with psycopg.connect(plain, autocommit=True) as connection:
            found["postgres"] = connection.info.parameter_status("server_version")
            connection.execute(FILL.format(jobs=args.jobs, rows=args.rows))
            connection.execute("VACUUM ANALYZE")
        print(f"{'migration':<34} {'took':>8} {'lock wait':>10} {'statement':>10}   statements")
        revisions = list(ScriptDirectory.from_config(config).walk_revisions())[::-1]
        for script in revisions:
            if script.revision <= FILLED_AT:
                continue
            told = measured(plain, lambda to=script.revision: command.upgrade(config, to))
            found["migrations"][script.revision] = told
            print(
                f"{Path(script.path).stem:<34} {told['seconds']:>7.1f}s"
                f" {told['longest_lock_wait_seconds'] * 1000:>8.0f}ms"
                f" {told['longest_statement_seconds'] * 1000:>8.0f}ms   {told['statements']}",
                flush=True,
            )
    longest = max(each["longest_lock_wait_seconds"] for each in found["migrations"].values())
    kept = "kept" if longest < AIM_SECONDS else "MISSED"
    print(f"longest wait for a lock: {longest * 1000:.0f} ms; the aim of 1000 ms is {kept}")
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def measured(plain: str, migrate: Any) -> dict[str, Any]:
    """Run a migration while the load runs."""
    load, stop = Load(), threading.Event()
    threads = [
        threading.Thread(target=_work, args=(plain, number, load, stop)) for number in range(2)
    ]
    threads += [
        threading.Thread(target=_read, args=(plain, load, stop)),
        threading.Thread(target=_watch, args=(plain, load, stop)),
    ]
    for thread in threads:
        thread.start()
    time.sleep(AROUND_SECONDS)
    began = time.monotonic()
    try:
        migrate()
        seconds = time.monotonic() - began
        time.sleep(AROUND_SECONDS)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return {
        "seconds": seconds,
        "longest_lock_wait_seconds": load.longest_lock_wait,
        "waited_for": load.waited_for,
        "longest_statement_seconds": load.longest_statement,
        "statements": load.statements,
        "refused": load.refused,
    }


def _work(plain: str, number: int, load: Load, stop: threading.Event) -> None:
    """Queue a job, claim it, end it; each in a transaction of its own, again and again."""
    with psycopg.connect(plain, application_name=APPLICATION) as connection:
        columns = _needed(connection)
        turn = 0
        while not stop.is_set():
            turn += 1
            told = {
                "id": f"new{number}-{time.time_ns()}",
                "account": f"acct{1 + turn % 1000}",
                "dataset": f"ds{1 + turn % 1000}",
            }
            queue = QUEUE.format(
                columns="".join(f", {name}" for name in columns),
                values="".join(f", {value}" for value in columns.values()),
            )
            try:
                for statements in ((queue, TELL, DETAIL), (CLAIM,), (FINISH,)):
                    _run(connection, statements, told, load)
            except psycopg.errors.NotNullViolation:
                # A column has come that the code of before knows nothing of.
                load.refused += 1
                connection.rollback()
                columns = _needed(connection)


def _read(plain: str, load: Load, stop: threading.Event) -> None:
    with psycopg.connect(plain, application_name=APPLICATION) as connection:
        turn = 0
        while not stop.is_set():
            turn += 1
            told = {"id": f"job{turn}", "dataset": f"ds{1 + turn % 1000}", "image": f"img{turn}"}
            for statement in READ:
                _run(connection, (statement,), told, load)


def _run(
    connection: psycopg.Connection, statements: tuple[str, ...], told: dict[str, str], load: Load
) -> None:
    for statement in statements:
        began = time.perf_counter()
        connection.execute(statement, told)
        load.add(time.perf_counter() - began)
    connection.commit()


def _needed(connection: psycopg.Connection) -> dict[str, str]:
    """Columns of jobs that must be given and that the statement does not name, with a value."""
    rows = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'jobs'"
        " AND column_name IN ('batch_size', 'passed_over')"
    ).fetchall()
    connection.commit()
    return {name: "1" for (name,) in rows}


def _watch(plain: str, load: Load, stop: threading.Event) -> None:
    """Ask Postgres again and again how long a statement of the load has waited for a lock."""
    query = """
        SELECT extract(epoch FROM clock_timestamp() - waitstart), mode || ' on ' ||
            coalesce(relation::regclass::text, locktype)
        FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE NOT granted AND waitstart IS NOT NULL AND application_name = %s
        ORDER BY waitstart LIMIT 1
    """
    with psycopg.connect(plain, autocommit=True) as connection:
        while not stop.is_set():
            # A row that two touch at once is no table that is kept from them.
            if (row := connection.execute(query, [APPLICATION]).fetchone()) is not None:
                seconds, what = float(row[0]), str(row[1])
                if seconds > load.longest_lock_wait:
                    load.longest_lock_wait, load.waited_for = seconds, what
            time.sleep(SAMPLE_SECONDS)


@contextmanager
def _database() -> Iterator[tuple[str, str]]:
    """A Postgres of its own, the embedded stack's: SQLAlchemy's address of it, and psycopg's."""
    with tempfile.TemporaryDirectory(prefix="lorawright-bench-") as kept:
        folder, port = Path(kept), free_port()
        folder.chmod(0o711)
        server = postgres_child(folder / "postgres", port, "bench", folder / "postgres.log")
        server.start()
        try:
            server.wait_ready()
            ensure_database(port, "bench")
            url = database_url(port, "bench")
            yield url, url.replace("+psycopg", "", 1)
        finally:
            server.stop()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=500_000, help="pictures, and metrics")
    parser.add_argument("--versions", type=Path, help="other migrations than this tree's")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
