"""Run a command over servers that are not the embedded ones: Debian's, and moto's S3.

    python -m tools.with_external_servers [--postgres FOLDER] [--redis PROGRAM] COMMAND…

Starts Postgres, Redis (or Valkey) and moto in a temporary folder, on free loopback ports, and runs
COMMAND with the LORAWRIGHT_* variables that name them; its exit status is ours. The tests take
these servers, since database and bucket are called as theirs must be (tests/servers.py).
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import psycopg
import redis

from app.cli.stack.child import Child, ChildSpec
from app.cli.stack.errors import ServerMissing
from app.cli.stack.ports import LOOPBACK, free_port
from app.cli.stack.postgres import database_url, ensure_database, postgres_child
from app.cli.stack.redis import redis_child, redis_url
from app.cli.stack.s3 import listens, s3_endpoint_url
from app.cli.stack.state import Secrets

DEBIAN_POSTGRES = Path("/usr/lib/postgresql")
DATABASE, BUCKET = "lorawright_test", "lorawright-test"


def main() -> int:
    """Start, run, end; the command's exit status."""
    options = _options()
    # As Ctrl-C: nothing that was started is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    secrets = Secrets()
    postgres_port, redis_port, s3_port = free_port(), free_port(), free_port()
    with (
        tempfile.TemporaryDirectory(prefix="lorawright-external-") as kept,
        _all_ended() as started,
    ):
        folder = Path(kept)
        folder.chmod(0o711)  # Postgres, which refuses to be root, must come through.
        started += [
            redis_child(
                folder / "redis",
                redis_port,
                secrets.redis_password,
                folder / "redis.log",
                program=options.redis or _redis_program(),
            ),
            _moto(s3_port, folder / "moto.log"),
            postgres_child(
                folder / "postgres",
                postgres_port,
                secrets.postgres_password,
                folder / "postgres.log",
                binaries=options.postgres or _newest_postgres(),
            ),
        ]
        for child in started:
            child.start()
        for child in started:
            child.wait_ready()
        ensure_database(postgres_port, secrets.postgres_password, DATABASE)
        variables = {
            "LORAWRIGHT_DATABASE_URL": database_url(
                postgres_port, secrets.postgres_password, DATABASE
            ),
            "LORAWRIGHT_REDIS_URL": redis_url(redis_port, secrets.redis_password),
            "LORAWRIGHT_S3_ENDPOINT_URL": s3_endpoint_url(s3_port),
            "LORAWRIGHT_S3_ACCESS_KEY_ID": secrets.s3_access_key_id,
            "LORAWRIGHT_S3_SECRET_ACCESS_KEY": secrets.s3_secret_access_key,
            "LORAWRIGHT_S3_BUCKET": BUCKET,
        }
        print(f"Over {_versions(variables)}:", *options.command, flush=True)
        with subprocess.Popen(options.command, env=os.environ | variables) as command:
            try:
                return command.wait()
            finally:
                # It ends with us, in its own way.
                command.terminate()


@contextlib.contextmanager
def _all_ended() -> Iterator[list[Child]]:
    """Children that are started in the block; at its end none of them runs."""
    started: list[Child] = []
    try:
        yield started
    finally:
        for child in started:
            child.ask_to_stop()
        for child in reversed(started):
            child.stop()


def _moto(port: int, log_path: Path) -> Child:
    """moto's server, which keeps objects in memory and in temporary files."""
    return Child(
        ChildSpec(
            name="moto",
            command=[sys.executable, "-m", "tools.moto_server", "-H", LOOPBACK, "-p", str(port)],
            environment=os.environ,
            ready=lambda: listens(port),
        ),
        log_path,
    )


def _newest_postgres() -> Path:
    found = [path.parent for path in DEBIAN_POSTGRES.glob("*/bin/postgres")]
    if not found:
        raise ServerMissing(
            f"No Postgres under {DEBIAN_POSTGRES}: apt-get install postgresql, "
            "or name the folder of another one's programs with --postgres"
        )
    return max(found, key=lambda path: int(path.parent.name))


def _redis_program() -> Path:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        raise ServerMissing(
            "Neither redis-server nor valkey-server is installed: apt-get install redis-server, "
            "or name another program with --redis"
        )
    return Path(found)


def _versions(variables: dict[str, str]) -> str:
    """What the servers say that they are."""
    plain = variables["LORAWRIGHT_DATABASE_URL"].replace("+psycopg", "", 1)
    with psycopg.connect(plain) as connection:
        of_postgres = connection.info.parameter_status("server_version")
    with redis.Redis.from_url(variables["LORAWRIGHT_REDIS_URL"], decode_responses=True) as client:
        told = client.info("server")
    name = told.get("server_name", "redis")
    of_redis = f"{name.capitalize()} {told.get(f'{name}_version')}"
    return f"Postgres {of_postgres}, {of_redis}, moto {version('moto')}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--postgres", type=Path, help="folder of Postgres' programs")
    parser.add_argument("--redis", type=Path, help="program of Redis or Valkey")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, with its options")
    options = parser.parse_args()
    if not options.command:
        parser.error("a command to run is missing")
    return options


if __name__ == "__main__":
    sys.exit(main())
