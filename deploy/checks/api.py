"""What the API's image must be, asked from within it: run by tools/replay_image.py."""

import os
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import distributions
from pathlib import Path

MOST_MEGABYTES = 250
# What a worker needs, or only a builder.
UNWANTED = ("torch", "diffusers", "transformers", "accelerate", "peft", "nvidia", "cuda", "triton")
BUILDERS = ("pip", "setuptools", "wheel")
SCHEDULE = Path("/tmp/schedule")
BEAT_SECONDS = 30.0
COMMANDS = (
    ("lorawright", "--help"),
    ("lorawright", "migrate", "--help"),
    ("lorawright", "key", "create", "--help"),
    ("lorawright", "bucket", "create", "--help"),
    ("celery", "-A", "app.broker:celery_app", "inspect", "--help"),
)


def main() -> None:
    """Say what was found; end with 1 where something is wrong."""
    problems: list[str] = []
    os.environ["LORAWRIGHT_REDIS_URL"] = "redis://127.0.0.1:1/0"
    names = sorted(each.metadata["Name"].lower() for each in distributions())
    problems += [f"{name} is installed" for name in names if name.startswith(UNWANTED)]
    problems += [f"{name} is installed" for name in names if name in BUILDERS]
    packages = Path(sysconfig.get_path("purelib"))
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) / 1e6
    print(f"{len(names)} packages, {size:.0f} MB of at most {MOST_MEGABYTES}", flush=True)
    if size >= MOST_MEGABYTES:
        problems.append(f"the packages are {size:.0f} MB")
    for command in COMMANDS:
        print("$ " + " ".join(command), flush=True)
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        if ended.returncode != 0:
            problems.append(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr}")

    problems += _start_beat()
    # Redis being away must be no more than a line in the log: what the transport imports is here.
    from app.broker import wake

    wake("train")
    from app.main import create_app
    from app.migrate import alembic_config

    print(f"{len(create_app().openapi()['paths'])} paths in the contract", flush=True)
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(alembic_config("postgresql+psycopg://")).get_current_head()
    print(f"migrations up to {head}", flush=True)
    if head is None:
        problems.append("there are no migrations")
    for place in ("/opt/lorawright", "/opt/venv", "/etc"):
        try:
            Path(place, "written").touch()
            problems.append(f"{place} can be written")
        except OSError:
            pass
    sys.exit("\n".join(problems) or 0)


def _start_beat() -> list[str]:
    """It must have a schedule soon, and wait for Redis, which is away."""
    command = ["celery", "-A", "app.broker:celery_app", "beat", "--pidfile", ""]
    command += ["--schedule", str(SCHEDULE)]
    print("$ " + " ".join(command), flush=True)
    beat = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + BEAT_SECONDS
        while not list(SCHEDULE.parent.glob(SCHEDULE.name + "*")):
            if time.monotonic() > deadline:
                return [f"beat has no schedule after {BEAT_SECONDS:.0f} s"]
            time.sleep(0.2)
        return [f"beat ended with {beat.returncode}"] if beat.poll() is not None else []
    finally:
        beat.terminate()
        beat.wait()


if __name__ == "__main__":
    main()
