"""The API on a port of its own, for clients that are not ours."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from app.main import create_app


@contextmanager
def serving() -> Iterator[str]:
    """The address at which uvicorn serves the app while the block runs."""
    server = uvicorn.Server(uvicorn.Config(create_app(), port=0, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive(), "uvicorn did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
