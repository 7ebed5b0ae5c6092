"""Whether a worker of this machine lives, without asking any server: for a container's healthcheck.

    python -m worker.alive

Each process that runs jobs touches a file of its own with every heartbeat, whether or not Postgres
answers. The command ends with 0 while such a process is there and has lately done so, else with 1
and the reason. A worker that is new may take a minute until its first heartbeat.
"""

import os
import socket
import sys
import time
from pathlib import Path

from app.settings import get_settings

FOLDER = "alive"
# So many heartbeats may be missed, and no less than so long: a busy machine is not a dead one.
MISSED = 6
LEAST_SECONDS = 60.0


def beat() -> None:
    """This process lives."""
    path = _folder() / f"{socket.gethostname()}:{os.getpid()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def end() -> None:
    """It does so no more, in good order."""
    (_folder() / f"{socket.gethostname()}:{os.getpid()}").unlink(missing_ok=True)


def trouble() -> str | None:
    """What is wrong with the workers of this machine; None if nothing is."""
    folder = _folder()
    may_be_old = max(LEAST_SECONDS, MISSED * get_settings().heartbeat_seconds)
    ages = {}
    for path in folder.glob(f"{socket.gethostname()}:*"):
        if _exists(int(path.name.rpartition(":")[2])):
            ages[path.name] = time.time() - path.stat().st_mtime
        else:
            path.unlink(missing_ok=True)
    if not ages:
        return f"no worker process has reported in {folder}"
    silent = [f"{name} for {age:.0f} s" for name, age in ages.items() if age > may_be_old]
    return f"silent, which {may_be_old:.0f} s may be: {', '.join(silent)}" if silent else None


def _folder() -> Path:
    return get_settings().work_dir / FOLDER


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def main() -> int:
    """The exit code."""
    told = trouble()
    if told is not None:
        print(told, file=sys.stderr)
    return 0 if told is None else 1


if __name__ == "__main__":
    sys.exit(main())
