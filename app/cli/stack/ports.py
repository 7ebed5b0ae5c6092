"""Which ports the servers listen on: found free once, kept, and checked before each start."""

import errno
import socket

from app.cli.stack.errors import PortTaken

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A TCP port nobody listens on now, chosen by the system."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def require_free(server: str, host: str, port: int, option: str) -> None:
    """Make sure that `server` can listen on host:port.

    Raises:
        PortTaken: it cannot; the text names the port, the server and the option to choose another.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the servers do: a connection still closing does not count as a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = f"port {port} is taken by another program"
            else:
                reason = f"{host}:{port} cannot be listened on ({error.strerror})"
            raise PortTaken(
                f"{server} cannot start: {reason}; choose another with {option}"
            ) from error
