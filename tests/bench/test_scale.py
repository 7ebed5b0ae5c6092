"""The simulation of many machines runs end to end, and finds what the service promises."""

import json
import os
import subprocess
import sys

from app.settings import REPOSITORY

TOY = [
    *("--jobs", "600", "--flood", "600", "--accounts", "20", "--measured", "80"),
    *("--samples", "20", "--seconds", "2", "--workers", "2"),
]


def test_a_toy_run_measures_everything(tmp_path):
    report = tmp_path / "report.json"
    # A process of its own, with servers of its own: it changes the environment for both.
    own = {name: value for name, value in os.environ.items() if name[:11] != "LORAWRIGHT_"}
    done = subprocess.run(
        [sys.executable, "-m", "bench.scale", *TOY, "--json", str(report)],
        cwd=REPOSITORY,
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    free, limited = found["waits"]["no limit on running jobs"], found["waits"]["8 running jobs"]
    for waits in (free, limited):
        assert waits["others"]["jobs"] > 10
        # Whoever comes has the next worker but a few, however many the flooder has waiting.
        assert waits["others"]["max"] < 3
        assert waits["flood_multiplied"]["max"] > 10 * waits["others"]["max"]
    steps = found["operations"]
    assert set(steps) == {"submit", "claim", "renew", "progress", "finish", "presence"}
    for name, step in steps.items():
        assert step["wal_bytes"] > 0, name
        assert step["transactions"] >= 1, name
    # A job's row is changed once for each, and a heartbeat changes it in place.
    assert steps["progress"]["rows"]["jobs"]["updated"] == 1
    assert steps["renew"]["rows"]["jobs"]["updated_in_place"] > 0.5
    for load in (*found["workers"], found["sleeping"], found["one_account"]):
        assert load["jobs"] > 0
        assert load["lock_tries_per_claim"] >= 1
    assert "the flooder has" in done.stdout
