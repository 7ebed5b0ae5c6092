"""Which server a command talks to: the one that was named, or the stack on this folder."""

from pathlib import Path

from app.cli.client import Client
from app.cli.errors import CommandError
from app.cli.stack.state import is_running, load_state


def connect(url: str | None, key: str | None, data_dir: Path) -> Client:
    """A client for `url` and `key`, each taken from the folder's stack.json where it is None.

    Raises:
        CommandError: neither says where the server is, or which key to use.
    """
    # A key is only lent to the server it belongs to: another address needs a key of its own.
    state = load_state(data_dir) if url is None else None
    if url is None:
        if state is None or state.url is None or not is_running(data_dir):
            raise CommandError(
                f"No stack is running on {data_dir}: start one with `lorawright up`, "
                "or name a server with --url or LORAWRIGHT_URL"
            )
        if not state.ready:
            raise CommandError(
                f"The stack on {data_dir} is starting or stopping; try again in a moment"
            )
        url = state.url
    key = key or (state.api_key if state is not None else None)
    if key is None:
        raise CommandError(f"{url} needs an API key: give --key or set LORAWRIGHT_API_KEY")
    return Client(url, key)
