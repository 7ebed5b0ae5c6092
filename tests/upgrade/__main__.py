"""A rolling upgrade from the last release to this tree, with the processes of both.

    make upgrade-test

The last release (its commit is in `old_release` beside this file) is taken out of the repository's
history and started over real servers. A training begins; the database is migrated while it runs;
its worker is replaced by one of this tree, which must go on from the saved state, under the old
API; then the old worker serves the new API; then everything is new, and the doctor must be content.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from app.cli.embedded import EmbeddedServers
from app.cli.stack.child import Child
from app.cli.stack.ports import free_port
from app.cli.stack.processes import api_child, beat_child, worker_children
from app.settings import REPOSITORY

OLD_RELEASE = Path(__file__).with_name("old_release")
PICTURES = REPOSITORY / "examples" / "ink-style"
TRAINING = {"rank": 2, "alpha": 1, "batch_size": 2, "num_repeats": 2, "resolution": 64, "seed": 3}
VARIABLES = {
    "LORAWRIGHT_DEFAULT_BASE_MODEL": "emoji-64",
    "LORAWRIGHT_DEFAULT_CAPTIONER": "emoji-blip",
    "LORAWRIGHT_SWEEP_SECONDS": "2",
    "LORAWRIGHT_TRAINING_STATE_SECONDS": "0.2",
    "OMP_NUM_THREADS": "1",
}
PATIENCE_SECONDS = 900.0
Json = dict[str, Any]


def main() -> None:
    """Do it, saying what is done; ends with 1 where something does not work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", default=OLD_RELEASE.read_text().strip(), help="its commit")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lorawright-upgrade-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        old = checked_out(told.old, folder / "old")
        with EmbeddedServers(folder / "data") as servers:
            Upgrade(servers, old).run()
    say("the upgrade went through")


def checked_out(commit: str, folder: Path) -> Path:
    """The tree of a commit."""
    archive = subprocess.run(
        ["git", "archive", commit], cwd=REPOSITORY, capture_output=True, check=False
    )
    if archive.returncode != 0:
        sys.exit(f"{commit} is not in this clone's history: git fetch --unshallow")
    folder.mkdir()
    packed = folder.with_suffix(".tar")
    packed.write_bytes(archive.stdout)
    with tarfile.open(packed) as opened:
        opened.extractall(folder, filter="data")
    return folder


@dataclass
class Upgrade:
    """The servers, the two trees, and what runs now."""

    servers: EmbeddedServers
    old: Path
    running: dict[str, Child] = field(default_factory=dict)
    api: str = ""
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))

    def run(self) -> None:
        """The order of docs/operations.md, and then the one it warns of."""
        try:
            self._run()
        finally:
            for child in self.running.values():
                child.ask_to_stop()
            for child in self.running.values():
                child.stop()
            self.client.close()

    def _run(self) -> None:
        new = REPOSITORY
        self.command(self.old, "migrate")
        before = self.revision()
        key = self.command(self.old, "key", "create").stdout.splitlines()[-1]
        self.client.headers["Authorization"] = f"Bearer {key}"
        self.start_api(self.old)
        self.start_workers(self.old)
        self.start_beat(self.old)
        dataset = self.upload()
        lora = self.trained(self.train(dataset, 4), "old API, old worker")
        self.generated(self.generate(lora), "old API, old worker")

        long = self.train(dataset, 400)
        self.wait(f"/trainings/{long}", lambda job: (job["progress"]["step"] or 0) > 4)
        self.command(new, "migrate")
        say(f"the database went from {before} to {self.revision()} while a training ran")
        self.generated(self.generate(lora), "old API, old worker, new schema", wait=False)
        self.start_workers(new)
        self.trained(long, "begun by the old worker, ended by the new one")
        assert self.resumed(long), "the new worker began anew"
        self.generated(self.generate(lora), "old API, new worker")
        self.start_beat(new)
        self.start_api(new)
        self.generated(self.generate(lora), "new API, new worker")

        self.start_workers(self.old)
        self.generated(self.generate(lora), "new API, old worker")
        self.trained(self.train(dataset, 4), "new API, old worker")
        self.start_workers(new)
        self.trained(self.train(dataset, 4), "new API, new worker")
        told = self.command(new, "doctor", "--objects", "--hashes", fails=True)
        bad = [line for line in told.stdout.splitlines() if line.startswith("problem")]
        assert not bad, bad

    # --- processes ---------------------------------------------------------------------------

    def variables(self, tree: Path) -> dict[str, str]:
        """What the processes of a tree see: its own code, the servers that all share."""
        return {**VARIABLES, **self.servers.environment(), "PYTHONPATH": str(tree)}

    def command(
        self, tree: Path, *arguments: str, fails: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        """`lorawright` of a tree."""
        return subprocess.run(
            [sys.executable, "-m", "app.cli.main", *arguments],
            env={**os.environ, **self.variables(tree)},
            cwd=tree,
            capture_output=True,
            text=True,
            check=not fails,
        )

    def start_api(self, tree: Path) -> None:
        """The API of a tree in place of the one before, which ends when the new one answers."""
        port = free_port()
        self.replace(tree, [api_child("127.0.0.1", port, self.variables(tree), self.logs(tree))])
        self.api = f"http://127.0.0.1:{port}"

    def start_workers(self, tree: Path) -> None:
        """The workers of a tree in place of those before."""
        redis_url = self.servers.environment()["LORAWRIGHT_REDIS_URL"]
        # Two of one name would answer for each other.
        for name in ("worker", "worker-cpu"):
            self.end(name)
        self.replace(tree, worker_children(redis_url, self.variables(tree), self.logs(tree)))

    def start_beat(self, tree: Path) -> None:
        """Beat of a tree in place of the one before."""
        self.end("beat")
        data = self.servers.data_dir
        self.replace(tree, [beat_child(data, self.variables(tree), self.logs(tree))])

    def replace(self, tree: Path, children: list[Child]) -> None:
        """Start, wait until all serve, and end those that they replace."""
        # Not measured: a busy machine may take its time.
        children = [
            Child(replace(child.spec, ready_seconds=PATIENCE_SECONDS), child.log_path)
            for child in children
        ]
        with contextlib.chdir(tree):  # celery looks for its application there first
            for child in children:
                child.start()
        for child in children:
            child.wait_ready()
            self.end(child.name)
            self.running[child.name] = child

    def end(self, name: str) -> None:
        """SIGTERM, and wait."""
        if (child := self.running.pop(name, None)) is not None:
            child.ask_to_stop()
            child.stop()

    def logs(self, tree: Path) -> Path:
        """A folder for a tree's logs."""
        logs = self.servers.data_dir / ("logs-old" if tree == self.old else "logs-new")
        logs.mkdir(exist_ok=True)
        return logs

    def revision(self) -> str:
        """Of the schema."""
        import psycopg

        url = self.servers.settings().database_url
        with psycopg.connect(url.replace("postgresql+psycopg:", "postgresql:", 1)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        assert row is not None
        return str(row[0])

    # --- work --------------------------------------------------------------------------------

    def post(self, path: str, **sent: Any) -> Json:
        """POST, which must succeed."""
        answer = self.client.post(f"{self.api}/v1{path}", **sent)
        assert answer.status_code < 300, answer.text
        made: Json = answer.json()
        return made

    def get(self, path: str) -> Json:
        """GET, which must succeed."""
        answer = self.client.get(f"{self.api}/v1{path}")
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def wait(self, path: str, until: Callable[[Json], bool] | None = None) -> Json:
        """Ask until a job has ended, or until something holds."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < ends:
            job = self.get(path)
            if job["status"] in ("succeeded", "failed", "canceled") or (until and until(job)):
                return job
            time.sleep(0.2)
        raise AssertionError(f"{path} has not ended after {PATIENCE_SECONDS:g} s: {job}")

    def upload(self) -> str:
        """A dataset."""
        request = {"name": "ink", "task": "style", "trigger_word": "inkstyle"}
        dataset = self.post("/datasets", json=request)["id"]
        files = [
            ("files", (path.name, path.read_bytes(), "image/png"))
            for path in sorted(PICTURES.glob("*.png"))[:6]
        ]
        self.post(f"/datasets/{dataset}/images", files=files)
        return str(dataset)

    def train(self, dataset: str, steps: int) -> str:
        """A training's id."""
        request = {"dataset": dataset, "name": "ink", "params": TRAINING | {"max_steps": steps}}
        return str(self.post("/trainings", json=request)["id"])

    def generate(self, lora: str) -> str:
        """A generation's id."""
        use = [{"lora": lora, "weight": 0.8}]
        request = {"prompt": "a red heart", "steps": 4, "seed": 1, "loras": use}
        return str(self.post("/generations", json=request)["id"])

    def trained(self, job_id: str, how: str) -> str:
        """Wait for a training; its LoRA."""
        job = self.wait(f"/trainings/{job_id}")
        assert job["status"] == "succeeded", (how, job["error"])
        say(f"trained: {how}")
        return str(job["lora"])

    def generated(self, job_id: str, how: str, *, wait: bool = True) -> None:
        """Wait for a generation, or only see that it is taken, while its worker is busy."""
        if not wait:
            assert self.get(f"/generations/{job_id}")["status"] == "queued"
            say(f"queued: {how}")
            return
        job = self.wait(f"/generations/{job_id}")
        assert job["status"] == "succeeded", (how, job["error"])
        assert httpx.get(job["images"][0]["url"]).status_code == 200
        say(f"drawn: {how}")

    def resumed(self, job_id: str) -> bool:
        """Whether a training went on from a state, by its story."""
        answer = self.client.get(f"{self.api}/v1/jobs/{job_id}/events")
        return "going on from step" in answer.text


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


if __name__ == "__main__":
    main()
