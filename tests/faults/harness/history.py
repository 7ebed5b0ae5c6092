"""A witness inside Postgres: triggers that write down every change of a job that matters.

Events and rows say what the service tells; these say what happened, change by change and in order.
They stand in a schema of their own that is dropped at the end.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import text

from app.database import get_engine

SET_UP = """
DROP SCHEMA IF EXISTS witness CASCADE;
CREATE SCHEMA witness;
CREATE TABLE witness.jobs (
    number bigserial PRIMARY KEY, job_id text, attempt int, status text, was text,
    at timestamptz DEFAULT clock_timestamp()
);
CREATE TABLE witness.states (
    number bigserial PRIMARY KEY, training_id text, step int,
    at timestamptz DEFAULT clock_timestamp()
);
-- Files that an attempt made visible, with the job's attempt and status at that moment.
CREATE TABLE witness.files (
    number bigserial PRIMARY KEY, job_id text, key text, attempt int, status text
);

CREATE FUNCTION witness.job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO witness.jobs (job_id, attempt, status) VALUES (NEW.id, NEW.attempt, NEW.status);
    ELSIF NEW.status <> OLD.status OR NEW.attempt <> OLD.attempt THEN
        INSERT INTO witness.jobs (job_id, attempt, status, was)
        VALUES (NEW.id, NEW.attempt, NEW.status, OLD.status);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION witness.state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state IS NOT NULL AND NEW.state IS DISTINCT FROM OLD.state THEN
        INSERT INTO witness.states (training_id, step) VALUES (NEW.id, (NEW.state->>'step')::int);
        INSERT INTO witness.files (job_id, key, attempt, status)
        SELECT NEW.id, files.value, jobs.attempt, jobs.status
        FROM jobs, jsonb_each_text(NEW.state->'files') AS files WHERE jobs.id = NEW.id;
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION witness.checkpoint() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' OR NEW.object_key <> OLD.object_key THEN
        INSERT INTO witness.files (job_id, key, attempt, status)
        SELECT NEW.training_id, NEW.object_key, attempt, status
        FROM jobs WHERE id = NEW.training_id;
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION witness.picture() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO witness.files (job_id, key, attempt, status)
    SELECT NEW.generation_id, NEW.object_key, attempt, status
    FROM jobs WHERE id = NEW.generation_id;
    RETURN NULL;
END $$;

CREATE TRIGGER witness AFTER INSERT OR UPDATE ON jobs
    FOR EACH ROW EXECUTE FUNCTION witness.job();
CREATE TRIGGER witness AFTER UPDATE ON trainings
    FOR EACH ROW EXECUTE FUNCTION witness.state();
CREATE TRIGGER witness AFTER INSERT OR UPDATE ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION witness.checkpoint();
CREATE TRIGGER witness AFTER INSERT ON generated_images
    FOR EACH ROW EXECUTE FUNCTION witness.picture();
"""
# The triggers fall with their functions.
TAKE_DOWN = "DROP SCHEMA IF EXISTS witness CASCADE"


@dataclass(frozen=True)
class Change:
    """A job's status or attempt changed; `was` is None where it was submitted."""

    number: int
    attempt: int
    status: str
    was: str | None
    at: float


@contextmanager
def witness() -> Iterator[None]:
    """Write down all changes while the block runs."""
    with get_engine().begin() as connection:
        connection.execute(text(SET_UP))
    try:
        yield
    finally:
        with get_engine().begin() as connection:
            connection.execute(text(TAKE_DOWN))


def changes(job_id: str) -> list[Change]:
    """A job's changes in order; times are seconds by Postgres' clock."""
    with get_engine().connect() as connection:
        rows = connection.execute(
            text(
                "SELECT number, attempt, status, was, extract(epoch FROM at) AS at "
                "FROM witness.jobs WHERE job_id = :id ORDER BY number"
            ),
            {"id": job_id},
        ).all()
    return [Change(r.number, r.attempt, r.status, r.was, float(r.at)) for r in rows]


def states(training_id: str) -> list[tuple[float, int]]:
    """When a training's states became the newest, in order, and their steps."""
    with get_engine().connect() as connection:
        rows = connection.execute(
            text(
                "SELECT extract(epoch FROM at) AS at, step FROM witness.states "
                "WHERE training_id = :id ORDER BY number"
            ),
            {"id": training_id},
        ).all()
    return [(float(row.at), row.step) for row in rows]


def foreign_files() -> list[str]:
    """Keys that were made visible by an attempt that did not hold its job then."""
    with get_engine().connect() as connection:
        rows = connection.execute(
            text(
                "SELECT job_id, key, attempt, status FROM witness.files WHERE status <> 'running' "
                "OR key NOT LIKE '%/jobs/' || job_id || '/' || attempt || '-%/%'"
            )
        ).all()
    return [f"{r.key} while {r.job_id} was {r.status}, attempt {r.attempt}" for r in rows]
