"""Many clients in one thread: plain HTTP/1.1 over kept connections, as light as can be.

A client library would take more of the machine than the server that is measured.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from urllib.parse import urlsplit


class Connection:
    """One client that stays connected."""

    def __init__(self, address: str, key: str) -> None:
        split = urlsplit(address)
        self._host, self._port = split.hostname, split.port
        self._head = f"Host: {split.netloc}\r\nAuthorization: Bearer {key}\r\n"
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request and read its answer whole: status and body."""
        status, headers = await self.begin(method, path, body)
        assert self._reader is not None
        return status, await self._reader.readexactly(int(headers.get("content-length", 0)))

    async def begin(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str]]:
        """Send a request and read the head of its answer."""
        assert self._reader is not None
        assert self._writer is not None
        kind = "Content-Type: application/json\r\n" if body else ""
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\n{self._head}{kind}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(first.split()[1]), headers

    async def next_line(self) -> str:
        """The next line of an answer without end."""
        assert self._reader is not None
        return (await self._reader.readline()).decode().rstrip("\r\n")

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()


async def opened(address: str, key: str, count: int) -> list[Connection]:
    """So many connected clients; a few at a time, as a listener's queue is short."""
    connections = [Connection(address, key) for _ in range(count)]
    for start in range(0, count, 50):
        await asyncio.gather(*(each.open() for each in connections[start : start + 50]))
    return connections


async def load(
    address: str,
    key: str,
    *,
    clients: int,
    seconds: float,
    method: str,
    paths: Sequence[str],
    body: object = None,
    expected: int = 200,
) -> tuple[float, list[float]]:
    """Requests answered a second, and the seconds each took, by so many clients that never rest.

    Raises:
        RuntimeError: an answer had another status.
    """
    packed = json.dumps(body).encode() if body is not None else b""
    connections = await opened(address, key, clients)
    ends_at = time.perf_counter() + seconds
    taken: list[float] = []

    async def one(number: int, connection: Connection) -> None:
        turn = number
        while time.perf_counter() < ends_at:
            began = time.perf_counter()
            status, answer = await connection.ask(method, paths[turn % len(paths)], packed)
            taken.append(time.perf_counter() - began)
            turn += 1
            if status != expected:
                raise RuntimeError(f"{method} answered {status}: {answer[:300]!r}")

    began = time.perf_counter()
    await asyncio.gather(*(one(number, each) for number, each in enumerate(connections)))
    elapsed = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return len(taken) / elapsed, taken
