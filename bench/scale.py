"""Many machines: who waits how long under a flood, and what each job costs the database.

    python -m bench.scale [--jobs N] [--accounts N] [--seconds S] [--workers 1,2,4,…] [--json FILE]

A million waiting jobs of a thousand accounts, and workers that only sleep, through the service's
own code for submissions, claims, leases, progress and ends, on real servers. A million jobs are
not run: what is measured is the cost of one while a million wait, and waits are told by a clock
that jumps (`job_parts/virtual.py`). What is multiplied says so.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import text

from app import settings
from app.cli.embedded import EmbeddedServers
from app.database import get_engine, new_id, transaction, utc_now
from app.jobs import backlog, claiming, lifecycle
from app.jobs import service as jobs
from app.jobs.lifecycle import Claim
from app.workers import service as workers
from app.workers.service import Report
from bench import machine
from bench.job_parts import filling, metering, sleepers, stack
from bench.job_parts.virtual import Simulation

PARTS = ["flood", "operations", "workers"]
TABLES = ["jobs", "job_events", "job_lines", "usage_days", "workers"]
# Of the simulated workers' time, what the accounts that do not flood need.
OTHERS_LOAD = 0.5
VIRTUAL_WORKERS = 100
# A generation on a GPU, for the workers that sleep.
JOB_SECONDS = 4.0


def main() -> None:
    """Measure and print."""
    args = _arguments()
    found: dict[str, Any] = {
        **machine.described(),
        "waiting": args.jobs,
        "flood": args.flood,
        "accounts": args.accounts,
    }
    with stack.servers() as running:
        found["postgres"] = _version()
        if "flood" in args.only:
            filling.fill(args.flood, 1)
            found["waits"] = waits(args)
            found["old_snapshot"] = old_snapshot(args)
            if "workers" in args.only:
                found["one_account"] = one_account(running, args)
            filling.empty()
        filling.fill(args.jobs, args.accounts)
        if "operations" in args.only:
            found["backlog_seconds"] = _timed(_queue_seconds, 5)
            print(f"seconds of waiting work: {_ms(found['backlog_seconds']['median'])}")
            found["operations"] = operations(running, args.samples)
        if "workers" in args.only:
            found["workers"] = many_workers(running, args)
            found["sleeping"] = sleeping_workers(running, args)
        found["sizes"] = sizes(args)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def waits(args: argparse.Namespace) -> dict[str, Any]:
    """One account has queued a flood; the others come now and then."""
    told: dict[str, Any] = {"unit": "mean durations of a job", "others_load": OTHERS_LOAD}
    for name, most_running in (("no limit on running jobs", 100_000), ("8 running jobs", 8)):
        flooder, *others = filling.open_accounts(args.accounts)
        with _setting(max_running_per_account=most_running):
            # So few that most jobs do not begin at time 0.
            count = max(2, min(VIRTUAL_WORKERS, args.measured // 15))
            told[name] = Simulation(flooder, others, count, OTHERS_LOAD).run(args.measured)
        _tell_waits(name, told[name], args.flood)
    return told


def operations(running: EmbeddedServers, samples: int) -> dict[str, Any]:
    """What each step of a job's life costs the database, one at a time, while all others wait."""
    account = filling.open_accounts(1)[0]
    submitted: list[str] = []
    claims: list[Claim] = []
    report = Report("bench:1", ("generate",), "0", utc_now())

    def submit() -> None:
        with transaction() as session:
            submitted.append(new_id("gen"))
            jobs.submit(
                session,
                job_id=submitted[-1],
                kind="generation",
                queue="generate",
                account_id=account,
            )

    def claim() -> None:
        with transaction() as session:
            taken = claiming.claim(session, "generate", "bench")
        assert taken is not None
        claims.append(taken)

    def each(act: Callable[[Any, Claim], object]) -> Callable[[], None]:
        turn = iter(claims)

        def once() -> None:
            with transaction() as session:
                act(session, next(turn))

        return once

    def progress(session: Any, taken: Claim) -> None:
        lifecycle.report_progress(
            session, taken, fraction=0.5, stage="denoise", step=15, total_steps=30
        )

    def presence() -> None:
        with transaction() as session:
            workers.report(session, report)

    told = {}
    for name, make in (
        ("submit", lambda: submit),
        ("claim", lambda: claim),
        ("renew", lambda: each(lifecycle.renew)),
        ("progress", lambda: each(progress)),
        (
            "finish",
            lambda: each(
                lambda session, taken: lifecycle.finish(session, taken, "succeeded", gpu_seconds=4)
            ),
        ),
        ("presence", lambda: presence),
    ):
        once = make()
        before = metering.read(running)
        seconds = _timed(once, samples)
        told[name] = {**metering.per_job(before, metering.read(running), samples), **seconds}
        _tell_operation(name, told[name])
    return told


def many_workers(running: EmbeddedServers, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Claims a second where jobs take no time at all, at more and more workers."""
    told = []
    for count in args.workers:
        told.append(_load(running, count, args.seconds / len(args.workers), 0.0))
        _tell_load("no rest", told[-1])
    return told


def sleeping_workers(running: EmbeddedServers, args: argparse.Namespace) -> dict[str, Any]:
    """What jobs of a GPU's duration cost, heartbeats and progress included."""
    seconds = max(args.seconds / 2, 1.0)
    told = _load(running, max(args.workers), seconds, min(JOB_SECONDS, seconds / 2))
    told["job_seconds"] = min(JOB_SECONDS, seconds / 2)
    _tell_load(f"{told['job_seconds']:g} s each", told)
    return told


def one_account(running: EmbeddedServers, args: argparse.Namespace) -> dict[str, Any]:
    """Claims a second where all that waits is one account's: one after the other, by its lock."""
    told = _load(running, max(args.workers), args.seconds / len(args.workers), 0.0)
    _tell_load("one account", told)
    return told


def old_snapshot(args: argparse.Namespace) -> dict[str, Any]:
    """Claims from one line while a transaction that began before them, as a dump's, stays open."""
    took: list[float] = []

    def drain(count: int) -> float:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            with transaction() as session:
                claim = claiming.claim(session, "generate", "bench")
            times.append(time.perf_counter() - began)
            assert claim is not None
            with transaction() as session:
                lifecycle.finish(session, claim, "succeeded", gpu_seconds=1)
        return statistics.median(times)

    before = drain(args.samples // 10)
    with get_engine().connect().execution_options(isolation_level="REPEATABLE READ") as held:
        held.execute(text("SELECT count(*) FROM accounts"))
        for _ in range(5):
            took.append(drain(args.samples))
    after = drain(args.samples // 10)
    told = {
        "claims_each": args.samples,
        "claim_before": before,
        "claim_while_it_is_open": took,
        "claim_after": after,
    }
    shown = ", ".join(_ms(each) for each in took)
    print(
        f"old snapshot: a claim takes {_ms(before)} before; {shown} after each {args.samples} "
        f"claims more; {_ms(after)} when it has ended"
    )
    return told


def sizes(args: argparse.Namespace) -> dict[str, Any]:
    """Bytes on disk as the runs have left them."""
    told = metering.sizes(TABLES)
    for name, size in told.items():
        print(
            f"{name}: {size['table_bytes'] / 1e6:.0f} MB, indexes "
            f"{size['index_bytes'] / 1e6:.0f} MB, {size['live']:,} rows, {size['dead']:,} dead, "
            f"{size['vacuums']} vacuums"
        )
    return {"jobs_filled": args.jobs, **told}


def _load(
    running: EmbeddedServers, count: int, seconds: float, job_seconds: float
) -> dict[str, Any]:
    before = metering.read(running)
    found = sleepers.work(count, seconds, job_seconds)
    after = metering.read(running)
    ordered = sorted(found.seconds)
    return {
        "workers": count,
        "jobs": found.jobs,
        "per_second": found.jobs / found.elapsed,
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "lock_tries_per_claim": found.tries / found.jobs,
        "lock_refusals_per_claim": found.refused / found.jobs,
        "postgres_cores": (after.cpu_seconds - before.cpu_seconds) / (after.at - before.at),
        **metering.per_job(before, after, found.jobs),
    }


def _queue_seconds() -> None:
    with transaction() as session:
        backlog.queue_seconds(session)


def _timed(act: Callable[[], None], times: int) -> dict[str, float]:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return {"median": statistics.median(taken), "max": max(taken)}


class _setting:
    """Another value of a setting for a block."""

    def __init__(self, **values: object) -> None:
        self._values = {f"LORAWRIGHT_{name.upper()}": str(value) for name, value in values.items()}

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._values}
        os.environ |= self._values
        settings.get_settings.cache_clear()

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        settings.get_settings.cache_clear()


def _tell_waits(name: str, found: dict[str, Any], jobs_waiting: int) -> None:
    others = found["others"]
    found["flood_jobs"] = jobs_waiting
    # All of a flood's jobs come at time 0, so the k-th waits for k turns.
    per_duration = found["flood_per_duration"]
    found["flood_multiplied"] = {
        "median": jobs_waiting / 2 / per_duration if per_duration else None,
        "max": jobs_waiting / per_duration if per_duration else None,
    }
    print(
        f"waits, {name}: {found['workers']} workers; in durations of a job: others (of "
        f"{found['accounts_seen']} accounts) median {others.get('median', 0):.4f}, "
        f"p99 {others.get('p99', 0):.3f}, max {others.get('max', 0):.3f}; the flooder has "
        f"{found['flood_share_of_workers']:.0%} of the workers, its last job would wait "
        f"{found['flood_multiplied']['max'] or 0:,.0f} (multiplied)"
    )


def _tell_operation(name: str, found: dict[str, Any]) -> None:
    rows = sum(each["inserted"] + each["updated"] for each in found["rows"].values())
    print(
        f"{name}: {_ms(found['median'])}, of Postgres {found['postgres_cpu_ms']:.2f} ms of "
        f"processor, {rows:.1f} rows written, {found['wal_bytes']} bytes of WAL"
    )


def _tell_load(name: str, found: dict[str, Any]) -> None:
    print(
        f"{found['workers']} workers, {name}: {found['per_second']:.1f} jobs/s, "
        f"p99 {_ms(found['p99'])}, Postgres {found['postgres_cores']:.2f} cores and "
        f"{found['postgres_cpu_ms']:.1f} ms a job, {found['transactions']:.1f} transactions, "
        f"{found['wal_bytes']} bytes of WAL, {found['lock_tries_per_claim']:.2f} lines tried"
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _version() -> str:
    with get_engine().connect() as connection:
        return str(connection.scalar(text("SHOW server_version")))


def _counts(told: str) -> list[int]:
    return [int(each) for each in told.split(",")]


def _arguments(told: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="that wait")
    parser.add_argument("--flood", type=int, help="of one account; a third of the jobs if not told")
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--measured", type=int, default=8000, help="jobs run by the jumping clock")
    parser.add_argument("--samples", type=int, default=500, help="of each operation")
    parser.add_argument("--seconds", type=float, default=120.0, help="that workers work, in all")
    parser.add_argument("--workers", type=_counts, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--only", type=lambda told: told.split(","), default=PARTS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(told)
    args.flood = args.flood or args.jobs // 3
    return args


if __name__ == "__main__":
    main()
