"""A proxy before the S3 server: it can refuse, fail, dawdle and cut, and tells what passes by."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

Mode = Literal["pass", "refuse", "unavailable", "slow", "cut"]
# When a trap shuts: the first half of an upload has passed, or the server has kept all of it.
Moment = Literal["half", "stored"]
PIECE_BYTES = 64 * 1024
REASON = b"<Error><Code>SlowDown</Code><Message>Not now, later</Message></Error>"
UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(REASON), REASON)
)


@dataclass
class Trap:
    """Waits for an upload whose key is wanted, and acts once at a moment of it.

    `act` is called in the proxy's thread with the key. What has not passed by then never does:
    half an upload is cut off there, a stored one is not acknowledged.
    """

    wanted: Callable[[str], bool]
    moment: Moment
    act: Callable[[str], None]
    sprung: threading.Event = field(default_factory=threading.Event)


class S3Proxy:
    """`with S3Proxy(port) as proxy:` listens on `proxy.port`, before a server on loopback."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self.port = 0
        self.mode: Mode = "pass"
        # What "slow" adds to each request.
        self.slow_seconds = 1.5
        # How many requests met another mode than "pass".
        self.disturbed = 0
        self._trap: Trap | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="s3-proxy", daemon=True)
        self._listening = threading.Event()

    def __enter__(self) -> "S3Proxy":
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    def set_trap(self, trap: Trap | None) -> None:
        """Lay a trap; the one before it, if any, is taken away."""
        self._trap = trap

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1024 * 1024)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        try:
            self._loop.run_forever()
        finally:
            server.close()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            # A transport is closed in the turns after it was asked to.
            self._loop.run_until_complete(asyncio.sleep(0.05))
            self._loop.close()

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        # The loop itself holds its tasks weakly.
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                await self._one_request(client, answer)
        finally:
            # Also of a client that keeps its connection when the proxy ends.
            answer.close()
        with suppress(ConnectionError):
            await answer.wait_closed()

    async def _one_request(
        self, client: asyncio.StreamReader, answer: asyncio.StreamWriter
    ) -> None:
        head = await client.readuntil(b"\r\n\r\n")
        request, *fields = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = request.split(" ")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (each.partition(":") for each in fields)
        }
        mode = self.mode
        if mode != "pass":
            self.disturbed += 1
        if mode == "refuse":
            # A reset, as of a machine that is not there.
            answer.transport.abort()
            return
        if mode == "unavailable":
            answer.write(UNAVAILABLE)
            await answer.drain()
            return
        if mode == "slow":
            await asyncio.sleep(self.slow_seconds)
        if headers.pop("expect", None) is not None:
            answer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await answer.drain()
        kept = [
            each for each in fields if each.split(":")[0].lower() not in ("expect", "connection")
        ]
        server, upstream = await asyncio.open_connection("127.0.0.1", self._server_port)
        try:
            upstream.write("\r\n".join([request, *kept, "Connection: close", "", ""]).encode())
            trap = self._trap_for(method, target)
            cut = mode == "cut" and method in ("PUT", "GET")
            length = int(headers.get("content-length", 0))
            half = length // 2 if (cut and method == "PUT") or _is(trap, "half") else length
            await _copy(client, upstream, half)
            if _is(trap, "half"):
                await self._spring(trap, target)
                return
            if cut and method == "PUT":
                return
            await _copy(client, upstream, length - half)
            reply = await server.read(PIECE_BYTES)
            if _is(trap, "stored"):
                await self._spring(trap, target)
                return
            if cut:
                answer.write(reply[: len(reply) // 2])
                return
            while reply:
                answer.write(reply)
                await answer.drain()
                reply = await server.read(PIECE_BYTES)
        finally:
            upstream.close()

    def _trap_for(self, method: str, target: str) -> Trap | None:
        trap = self._trap
        if trap is None or method not in ("PUT", "POST") or not trap.wanted(_key(target)):
            return None
        self._trap = None
        return trap

    async def _spring(self, trap: Trap | None, target: str) -> None:
        assert trap is not None
        trap.act(_key(target))
        trap.sprung.set()


def _is(trap: Trap | None, moment: Moment) -> bool:
    return trap is not None and trap.moment == moment


def _key(target: str) -> str:
    """The key of a path-style address: what follows the bucket."""
    return unquote(target.partition("?")[0].lstrip("/").partition("/")[2])


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, count: int) -> None:
    while count > 0:
        piece = await source.read(min(count, PIECE_BYTES))
        if not piece:
            raise ConnectionError("the client went away")
        target.write(piece)
        await target.drain()
        count -= len(piece)
