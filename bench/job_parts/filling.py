"""Queues as full as they may ever be: rows made by Postgres itself, as `jobs.submit` makes them."""

from sqlalchemy import text

from app.database import get_engine

_ACCOUNTS = """
    INSERT INTO accounts (id, name)
    SELECT 'acct_bench' || lpad(n::text, 6, '0'), 'bench' FROM generate_series(1, :accounts) AS n
    ON CONFLICT DO NOTHING
"""
# Accounts are mixed as arrivals are, not one after the other.
_JOBS = """
    INSERT INTO jobs (id, kind, queue, account_id, status, priority, attempt, failures,
        max_attempts, batch_key, batch_size, base_model, passed_over, progress_fraction,
        gpu_seconds, event_seq, metadata, created_at)
    SELECT 'gen_bench' || lpad((:first + n)::text, 12, '0'), 'generation', 'generate',
        'acct_bench' || lpad((1 + (CAST(n AS bigint) * 7919) % :accounts)::text, 6, '0'),
        'queued', 0, 0, 0, 3,
        md5((n % 50)::text), 1, 'emoji-64', 0, 0, 0, 0, '{}',
        now() - interval '1 day' + n * interval '1 millisecond'
    FROM generate_series(1, :jobs) AS n
"""
_LINES = """
    INSERT INTO job_lines (queue, account_id, priority, waiting)
    SELECT DISTINCT queue, account_id, priority, true FROM jobs WHERE status = 'queued'
    ON CONFLICT (queue, account_id, priority) DO UPDATE SET waiting = true
"""


def fill(jobs: int, accounts: int, *, first: int = 0) -> None:
    """Queue so many generations more, of so many accounts in turn."""
    open_accounts(accounts)
    with get_engine().begin() as connection:
        connection.execute(text(_JOBS), {"jobs": jobs, "accounts": accounts, "first": first})
        connection.execute(text(_LINES))
    with get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # As autovacuum would have by the time that so many have come.
        connection.execute(text("VACUUM ANALYZE accounts"))
        connection.execute(text("VACUUM ANALYZE jobs"))
        connection.execute(text("VACUUM ANALYZE job_lines"))


def open_accounts(accounts: int) -> list[str]:
    """See to it that there are so many accounts; their ids."""
    with get_engine().begin() as connection:
        connection.execute(text(_ACCOUNTS), {"accounts": accounts})
    return [f"acct_bench{number:06d}" for number in range(1, accounts + 1)]


def empty() -> None:
    """Remove every job."""
    with get_engine().begin() as connection:
        connection.execute(text("TRUNCATE jobs, job_lines CASCADE"))
