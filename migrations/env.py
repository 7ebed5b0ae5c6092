"""Alembic's entry: one process at a time, a transaction for each revision, and no long waiting.

Whoever waits for a lock on a table makes everybody who comes later wait as well. So a statement
here waits for a moment only; then its revision is undone, and tried again after a pause in which
the others go on.
"""

import logging
import random
import time

import psycopg
from alembic import context
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import OperationalError

from app.schema_changes import LOCK_TIMEOUT
from app.tables import metadata

log = logging.getLogger("alembic.env")

# Any constant: it makes two processes that migrate at once take turns.
MIGRATION_LOCK = 7_310_550
# How long a revision is tried again before the upgrade fails.
PATIENCE_SECONDS = 600.0
PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
IN_USE = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


def migrate() -> None:
    """Run what was asked of Alembic."""
    url = context.config.get_main_option("sqlalchemy.url")
    assert url is not None
    with create_engine(url, poolclass=NullPool).connect() as connection:
        _take_turn(connection)
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        connection.commit()
        _run(connection)


def _take_turn(connection: Connection) -> None:
    # Asked again and again: whoever slept inside the question would hold up the very indexes that
    # the other builds, which wait for every older statement.
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_LOCK}):
        connection.rollback()
        time.sleep(PAUSE_SECONDS)
    connection.commit()


def _run(connection: Connection) -> None:
    began, pause = time.monotonic(), PAUSE_SECONDS
    while True:
        context.configure(
            connection=connection,
            target_metadata=metadata,
            compare_type=True,
            transaction_per_migration=True,
        )
        try:
            with context.begin_transaction():
                context.run_migrations()
            return
        except OperationalError as error:
            connection.rollback()
            if not isinstance(error.orig, IN_USE):
                raise
            if time.monotonic() - began > PATIENCE_SECONDS:
                error.add_note(f"Others have kept the table for {PATIENCE_SECONDS:.0f} s.")
                raise
            log.warning("A table is in use; the revision is tried again: %s", error.orig)
        # Uneven, so as not to meet the same visitor each time.
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


migrate()
