"""What Postgres did meanwhile: transactions, rows, WAL and processor time, between two readings."""

import time
from dataclasses import dataclass
from typing import Any

import psutil
from sqlalchemy import text

from app.cli.embedded import EmbeddedServers
from app.database import get_engine

_TABLES = """
    SELECT relname AS name, n_tup_ins AS inserted, n_tup_upd AS updated,
        n_tup_hot_upd AS updated_in_place, n_tup_del AS deleted
    FROM pg_stat_user_tables
"""
_TOTALS = """
    SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0') AS wal_bytes,
        (SELECT wal_fpi FROM pg_stat_wal) AS full_pages,
        (SELECT xact_commit + xact_rollback FROM pg_stat_database
         WHERE datname = current_database()) AS transactions
"""
_SIZES = """
    SELECT relname AS name, pg_table_size(relid) AS table_bytes,
        pg_indexes_size(relid) AS index_bytes,
        n_live_tup AS live, n_dead_tup AS dead, autovacuum_count AS vacuums
    FROM pg_stat_user_tables WHERE relname = ANY(:names)
"""
# A connection that rests tells its counters late; one that ends tells them at once.
SETTLE_SECONDS = 0.3
ROW_COUNTS = ("inserted", "updated", "updated_in_place", "deleted")


@dataclass(frozen=True)
class Reading:
    """Counters since the server began."""

    at: float
    cpu_seconds: float
    wal_bytes: int
    full_pages: int
    transactions: int
    rows: dict[str, dict[str, int]]


def read(running: EmbeddedServers) -> Reading:
    """All counters now; this process's own connections are given up first."""
    get_engine().dispose()
    time.sleep(SETTLE_SECONDS)
    with get_engine().connect() as connection:
        totals = connection.execute(text(_TOTALS)).one()
        rows = {
            row.name: {count: getattr(row, count) for count in ROW_COUNTS}
            for row in connection.execute(text(_TABLES))
        }
    return Reading(
        time.perf_counter(),
        _cpu_seconds(running),
        int(totals.wal_bytes),
        totals.full_pages,
        totals.transactions,
        rows,
    )


def per_job(before: Reading, after: Reading, jobs: int) -> dict[str, Any]:
    """What lies between two readings, for each of so many jobs."""
    rows = {}
    for name, counts in after.rows.items():
        changed = {
            count: round((counts[count] - before.rows.get(name, {}).get(count, 0)) / jobs, 3)
            for count in ROW_COUNTS
        }
        if any(changed.values()):
            rows[name] = changed
    return {
        "postgres_cpu_ms": round(1000 * (after.cpu_seconds - before.cpu_seconds) / jobs, 3),
        "transactions": round((after.transactions - before.transactions) / jobs, 2),
        "wal_bytes": round((after.wal_bytes - before.wal_bytes) / jobs),
        "full_pages": round((after.full_pages - before.full_pages) / jobs, 3),
        "rows": rows,
    }


def sizes(names: list[str]) -> dict[str, dict[str, int]]:
    """Bytes of tables and of their indexes, and the rows that are dead."""
    with get_engine().connect() as connection:
        found = connection.execute(text(_SIZES), {"names": names})
        return {row.name: {k: v for k, v in row._mapping.items() if k != "name"} for row in found}


def _cpu_seconds(running: EmbeddedServers) -> float:
    """Of the server and all its processes, those that have ended included."""
    assert running.postgres is not None
    postmaster = psutil.Process(running.postgres.pid)
    own = postmaster.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in postmaster.children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return float(total)
