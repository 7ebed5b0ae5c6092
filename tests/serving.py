"""The API on a port of its own, for clients that are not ours."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.cli.stack.ports import LOOPBACK, free_port
from app.cli.stack.processes import api_child


@contextmanager
def serving() -> Iterator[str]:
    """The address at which uvicorn serves the app while the block runs, in its own process.

    A client may leave a connection half open, which would be this process's to complain of.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="lorawright-serving-") as logs:
        child = api_child(LOOPBACK, port, {}, Path(logs))
        child.start()
        try:
            child.wait_ready()
            yield f"http://{LOOPBACK}:{port}"
        finally:
            child.stop()
