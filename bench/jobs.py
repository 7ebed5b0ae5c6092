"""The job system beside a bare Celery task, insert and queue, in one run.

    python -m bench.jobs [--jobs N] [--accounts N] [--streams N] [--clients N] [--json FILE]

Submissions a second; how soon an idle worker has a job; what a claim takes with ten thousand and
with a million jobs waiting; status polls; how late events are with a thousand streams open.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import redis
from sqlalchemy import select, text

from app.cli.embedded import EmbeddedServers
from app.database import get_engine, new_id, transaction
from app.jobs import claiming, events, lifecycle
from app.jobs import service as jobs
from app.jobs.models import Job
from bench import machine
from bench.job_parts import filling, http_load, stack

REQUEST = {"prompt": "a red apple", "width": 64, "height": 64, "steps": 4}
AIMS = {"idle": 0.050, "claim": 0.010, "growth": 2.0, "event": 0.100}
SMALL = 10_000
OPENING_AT_ONCE = 50
# Of a few hundred the p99 is that of two or three moments at which the machine did something else.
CLAIMS = 2000


def main() -> None:
    """Measure and print."""
    args = _arguments()
    found: dict[str, Any] = {
        **machine.described(),
    }
    with stack.servers() as running:
        found["submissions"] = submissions(running, args.seconds)
        _tell_submissions(found["submissions"])
        found["idle"] = idle(running, args.samples)
        _tell_idle(found["idle"])
        found["polls"] = polls(running, args.clients, args.seconds)
        _tell_polls(found["polls"], args.clients)
        found["events"] = stream_delays(running, args.streams, args.samples)
        _tell_events(found["events"], args.streams)
        found["claims"] = claims(args.jobs, args.accounts)
        _tell_claims(found["claims"])
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def submissions(running: EmbeddedServers, seconds: float) -> dict[str, Any]:
    """Requests a second by eight clients: a generation of ours, a bare row, a bare task."""
    _, key = stack.customer()
    told: dict[str, Any] = {"clients": 8}
    for name, factory, path in (
        ("ours", "app.main:create_app", "/v1/generations"),
        ("bare insert", "bench.job_parts.peers:create_bare_app", "/rows"),
    ):
        with stack.web_server(running, factory) as address:
            rate, taken = asyncio.run(
                http_load.load(
                    address,
                    key,
                    clients=8,
                    seconds=seconds,
                    method="POST",
                    paths=[path],
                    body=REQUEST,
                    expected=201,
                )
            )
        told[name] = {"per_second": rate, **_spread(taken)}
    from bench.job_parts import peers

    peers.bare.conf.broker_url = os.environ["LORAWRIGHT_REDIS_URL"]
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        peers.bare.send_task("bench.nobody", args=[REQUEST], queue="bench-nobody")
        count += 1
    told["bare send_task"] = {"per_second": count / (time.perf_counter() - began)}
    filling.empty()
    return told


def idle(running: EmbeddedServers, samples: int) -> dict[str, Any]:
    """Seconds from a client's POST until an idle worker has claimed the job, or begun the task."""
    from bench.job_parts import peers

    client = redis.Redis.from_url(os.environ["LORAWRIGHT_REDIS_URL"])
    client.flushdb()
    _, key = stack.customer()
    ours: list[float] = []
    with (
        stack.web_server(running, "app.main:create_app") as address,
        stack.worker(running, "bench.job_parts.worker:celery_app", ["generate"]),
        httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}) as web,
    ):
        for number in range(samples + 5):
            began = time.time()
            job_id = web.post("/v1/generations", json=REQUEST).raise_for_status().json()["id"]
            job = _ended(job_id)
            assert job.started_at is not None
            if number >= 5:  # the first ones import what they need
                ours.append(job.started_at.timestamp() - began)
    bare: list[float] = []
    with stack.worker(running, "bench.job_parts.peers:bare", [peers.QUEUE]):
        for number in range(samples + 5):
            token = new_id("t")
            began = time.time()
            peers.bare.send_task("bench.note_start", args=[token], queue=peers.QUEUE)
            told = client.blpop([f"{peers.STARTED}:{token}"], timeout=30)
            assert told is not None, "the bare task was not run"
            if number >= 5:
                bare.append(float(told[1]) - began)
    filling.empty()
    return {"ours": _spread(ours), "bare task": _spread(bare)}


def claims(most: int, accounts: int) -> dict[str, Any]:
    """Seconds a claim takes, transaction and event included, with few and with many waiting.

    Beside each the oldest row of a bare queue of as many is taken, so that a moment at which the
    machine is slow is told from a slow claim.
    """
    from bench.job_parts import peers

    told: dict[str, Any] = {"accounts": accounts}
    filled = 0
    for count in (min(SMALL, most), most):
        filling.fill(count - filled, accounts, first=filled)
        filled = count
        peers.fill_bare_queue(count)
        ours, bare = _time_claims(CLAIMS)
        told[str(count)] = _spread(ours)
        told[f"{count}, bare queue"] = _spread(bare)
        told[f"{count}, plan"] = _plan()
    filling.empty()
    return told


def _time_claims(samples: int) -> tuple[list[float], list[float]]:
    from bench.job_parts import peers

    taken: list[float] = []
    bare: list[float] = []
    claimed: list[claiming.Claim] = []
    for number in range(samples + 20):
        began = time.perf_counter()
        with transaction() as session:
            claim = claiming.claim(session, "generate", "bench")
        ended = time.perf_counter()
        with transaction() as session:
            peers.claim_bare(session)
        if number >= 20:
            taken.append(ended - began)
            bare.append(time.perf_counter() - ended)
        assert claim is not None
        claimed.append(claim)
        # As many run as a hundred workers would.
        if len(claimed) > 100:
            with transaction() as session:
                lifecycle.finish(session, claimed.pop(0), "succeeded", gpu_seconds=1)
    for claim in claimed:
        with transaction() as session:
            lifecycle.finish(session, claim, "succeeded", gpu_seconds=1)
    return taken, bare


def _plan() -> list[str]:
    """How Postgres finds the head of a line."""
    query = """
        EXPLAIN (ANALYZE, BUFFERS OFF, TIMING OFF)
        SELECT id FROM jobs WHERE queue = 'generate' AND account_id = 'acct_bench000007'
        AND priority = 0 AND status = 'queued' AND (not_before IS NULL OR not_before <= now())
        ORDER BY created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
    """
    with get_engine().begin() as connection:
        return list(connection.scalars(text(query)))


def polls(running: EmbeddedServers, clients: int, seconds: float) -> dict[str, Any]:
    """GET of waiting and of ended generations by clients that never rest."""
    account_id, key = stack.customer()
    with stack.web_server(running, "app.main:create_app") as address:
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}) as web:
            ids = [
                web.post("/v1/generations", json=REQUEST).raise_for_status().json()["id"]
                for _ in range(50)
            ]
        with transaction() as session:
            for _ in range(25):
                claim = claiming.claim(session, "generate", "bench")
                assert claim is not None
                lifecycle.finish(session, claim, "succeeded", gpu_seconds=1)
        rate, taken = asyncio.run(
            http_load.load(
                address,
                key,
                clients=clients,
                seconds=seconds,
                method="GET",
                paths=[f"/v1/generations/{job_id}" for job_id in ids],
            )
        )
    filling.empty()
    return {"account": account_id, "per_second": rate, **_spread(taken)}


def stream_delays(running: EmbeddedServers, streams: int, samples: int) -> dict[str, Any]:
    """Seconds from an event's commit until its stream's client has it, all streams open."""
    account_id, key = stack.customer()
    ids = [new_id("gen") for _ in range(streams)]
    with transaction() as session:
        for job_id in ids:
            jobs.submit(
                session, job_id=job_id, kind="generation", queue="generate", account_id=account_id
            )
    with stack.web_server(running, "app.main:create_app") as address:
        delays = asyncio.run(_follow_all(address, key, ids, samples))
    filling.empty()
    return {"streams": streams, **_spread(delays)}


async def _follow_all(address: str, key: str, ids: Sequence[str], samples: int) -> list[float]:
    connections = await http_load.opened(address, key, len(ids))
    delays: list[float] = []
    arrivals: asyncio.Queue[float] = asyncio.Queue()
    first = asyncio.Semaphore(0)
    # Measured is what open streams do; a thousand that open at once may be told to come again.
    opening = asyncio.Semaphore(OPENING_AT_ONCE)

    async def follow(job_id: str, connection: http_load.Connection) -> None:
        async with opening:
            status, _ = await connection.begin("GET", f"/v1/jobs/{job_id}/events")
        if status != 200:
            raise RuntimeError(f"a stream answered {status}")
        while True:
            line = await connection.next_line()
            if line.startswith("event: status"):
                first.release()
            elif line.startswith("event: log"):
                arrivals.put_nowait(time.time())

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(follow(job_id, connection))
            for job_id, connection in zip(ids, connections, strict=True)
        ]
        for _ in ids:
            await first.acquire()
        for _ in range(samples):
            # It may have arrived before this task hears of the commit.
            committed = await asyncio.to_thread(_append, random.choice(ids))
            async with asyncio.timeout(30):
                delays.append(await arrivals.get() - committed)
        for task in tasks:
            task.cancel()
    for connection in connections:
        connection.close()
    return delays


def _append(job_id: str) -> float:
    """An event, and when its commit began: announcing it is part of the delay."""
    with transaction() as session:
        events.append(session, job_id, "log", {"level": "info", "message": "bench"})
        return time.time()


def _ended(job_id: str) -> Job:
    while True:
        with transaction() as session:
            job = session.scalars(select(Job).where(Job.id == job_id)).one()
        if jobs.has_ended(job):
            return job
        time.sleep(0.005)


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "samples": len(ordered),
        "median": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
    }


def _tell_submissions(found: dict[str, Any]) -> None:
    ours, row = found["ours"]["per_second"], found["bare insert"]["per_second"]
    task = found["bare send_task"]["per_second"]
    print(
        f"submissions a second: ours {ours:.0f}; bare FastAPI insert {row:.0f} "
        f"({ours / row:.2f} ×); bare send_task {task:.0f} ({ours / task:.2f} ×)"
    )


def _tell_idle(found: dict[str, Any]) -> None:
    ours, bare = found["ours"], found["bare task"]
    print(
        f"idle submit → claimed: median {_ms(ours['median'])}, p99 {_ms(ours['p99'])} "
        f"(aim ≤ {_ms(AIMS['idle'])} median); bare Celery task: median {_ms(bare['median'])}, "
        f"p99 {_ms(bare['p99'])}"
    )


def _tell_polls(found: dict[str, Any], clients: int) -> None:
    print(
        f"status polls, {clients} clients: {found['per_second']:.0f} a second, "
        f"median {_ms(found['median'])}, p99 {_ms(found['p99'])}"
    )


def _tell_events(found: dict[str, Any], streams: int) -> None:
    print(
        f"event → client, {streams} streams: median {_ms(found['median'])}, "
        f"p99 {_ms(found['p99'])} (aim ≤ {_ms(AIMS['event'])})"
    )


def _tell_claims(found: dict[str, Any]) -> None:
    counts = [name for name in found if name.isdigit()]
    for name in counts:
        ours, bare = found[name], found[f"{name}, bare queue"]
        print(
            f"claim, {int(name):,} waiting of {found['accounts']:,} accounts: "
            f"median {_ms(ours['median'])}, p99 {_ms(ours['p99'])}; bare queue: "
            f"median {_ms(bare['median'])}, p99 {_ms(bare['p99'])}"
        )
    growth = found[counts[-1]]["p99"] / found[counts[0]]["p99"]
    print(f"p99 grows {growth:.2f} × (aims: ≤ {AIMS['growth']:.0f} ×, ≤ {_ms(AIMS['claim'])})")
    print("\n".join(found[f"{counts[-1]}, plan"]))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
