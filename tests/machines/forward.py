"""Servers that listen on loopback, reached from other machines: a forwarder at another address."""

import asyncio
import socket
import threading
from contextlib import suppress

PIECE_BYTES = 256 * 1024
# A client that answers nothing for so long is gone, and the server is told so.
GONE_SECONDS = 4


class Forward:
    """`with Forward(address, [port, …]):` makes loopback's ports reachable at an address."""

    def __init__(self, address: str, ports: list[int]) -> None:
        self._address = address
        self._ports = ports
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="forward", daemon=True)
        self._listening = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> "Forward":
        self._thread.start()
        self._listening.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        servers = [self._loop.run_until_complete(self._listen(port)) for port in self._ports]
        self._listening.set()
        try:
            self._loop.run_forever()
        finally:
            for server in servers:
                server.close()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            # A transport is closed in the turns after it was asked to.
            self._loop.run_until_complete(asyncio.sleep(0.05))
            self._loop.close()

    async def _listen(self, port: int) -> asyncio.Server:
        async def serve(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            # The loop itself holds its tasks weakly.
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            _notice_when_gone(answers.get_extra_info("socket"))
            # Cancelled where clients are still connected at the end, which is nobody's news.
            with suppress(OSError, asyncio.CancelledError):
                server, requests = await asyncio.open_connection("127.0.0.1", port)
                try:
                    # Whichever side ends, both do.
                    ways = [
                        asyncio.create_task(_copy(client, requests)),
                        asyncio.create_task(_copy(server, answers)),
                    ]
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
                finally:
                    requests.close()
            answers.close()

        return await asyncio.start_server(serve, self._address, port)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await source.read(PIECE_BYTES):
            target.write(piece)
            await target.drain()


def _notice_when_gone(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, GONE_SECONDS)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_SECONDS * 1000)
