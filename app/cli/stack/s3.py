"""An S3 server over a folder, from the nanio wheel: buckets are folders, objects are files."""

import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from app.cli.stack.child import Child, ChildSpec
from app.cli.stack.errors import ServerMissing
from app.cli.stack.ports import LOOPBACK
from app.errors import LorawrightError, NotFound
from app.settings import Settings
from app.storage import make_store


def s3_child(folder: Path, port: int, settings: Settings, log_path: Path) -> Child:
    """An S3 server that keeps its objects under `folder`; `settings` hold its keys and region.

    Raises:
        ServerMissing: the wheel is not installed.
    """
    if find_spec("nanio") is None:
        raise ServerMissing(
            "The embedded S3 server is not installed: pip install 'lorawright[embedded]', "
            "or set LORAWRIGHT_S3_ENDPOINT_URL to a server of your own"
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    secret = settings.s3_secret_access_key
    return Child(
        ChildSpec(
            name="s3",
            command=[
                *[sys.executable, "-m", "nanio", "serve", "--data-dir", str(folder)],
                *["--host", LOOPBACK, "--port", str(port), "--region", settings.s3_region],
                *["--no-access-log", "--gc-abandoned-uploads"],
            ],
            environment={
                # What this Python needs to find its packages, but no settings meant for another.
                **{name: value for name, value in os.environ.items() if name[:6] != "NANIO_"},
                "NANIO_ACCESS_KEY": settings.s3_access_key_id or "",
                "NANIO_SECRET_KEY": secret.get_secret_value() if secret else "",
            },
            ready=lambda: listens(port) and s3_answers(settings),
            # It waits for open downloads; they are cut after this.
            stop_seconds=5.0,
        ),
        log_path,
    )


def s3_endpoint_url(port: int) -> str:
    """The address for boto3."""
    return f"http://{LOOPBACK}:{port}"


def listens(port: int) -> bool:
    """Whether somebody does, on loopback."""
    # Asked before boto3, which would retry a refused connection for seconds.
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def s3_answers(settings: Settings) -> bool:
    """Whether a signed request is answered, be it that the bucket is missing."""
    try:
        make_store(settings).check()
    except NotFound:
        return True
    except LorawrightError:
        return False
    return True
