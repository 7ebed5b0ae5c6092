"""The long form: `python -m tests.faults`, which `make faults` runs; exit code 1 on a violation."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from app.cli.embedded import EmbeddedServers


def main() -> int:
    """Run once in a temporary folder; 0 if nothing was violated."""
    options = _options()
    # Its variables must be set before anything reads the settings.
    with (
        tempfile.TemporaryDirectory(prefix="lorawright-faults-") as folder,
        EmbeddedServers(Path(folder)) as servers,
    ):
        from tests.faults.harness.stack import VARIABLES

        os.environ |= {
            **servers.environment(),
            **VARIABLES,
            "LORAWRIGHT_LOG_LEVEL": "error",
        }
        from app.migrate import upgrade
        from app.settings import get_settings

        upgrade(get_settings().database_url)
        try:
            return _run(options, servers)
        finally:
            if options.keep_logs is not None:
                shutil.copytree(servers.data_dir / "logs", options.keep_logs, dirs_exist_ok=True)


def _run(options: argparse.Namespace, servers: EmbeddedServers) -> int:
    from tests.faults.campaign import run
    from tests.faults.harness.stops import Stops
    from tests.faults.plans import long_plan
    from tests.faults.report import table, write_json
    from tests.faults.session import at_work

    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f}  {line}", flush=True)

    with at_work(servers, training_kinds=3, generation_kinds=12) as work:
        say("undisturbed runs done")
        stops = [stop() for stop in Stops(work.stack, work).all]
        say("stops measured")
        findings = run(long_plan(options), work, say)
    findings.stops = {stop.stage: round(stop.seconds, 2) for stop in stops}
    findings.violations["a job was stopped too late, or not in order"] = [
        stop.violation for stop in stops if stop.violation is not None
    ]
    print(table(findings))
    if options.json is not None:
        write_json(findings, options.json)
    return 0 if findings.sound else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    for name, count in (
        ("kills", 200),
        ("trainings", 50),
        ("generations", 500),
        ("redis", 10),
        ("postgres", 10),
        ("s3", 8),
        ("freezes", 4),
        ("seed", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=count, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep-logs", type=Path, metavar="FOLDER", help="copy the logs there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
