"""How much memory the API needs for a large upload.

    python -m bench.upload_memory --megabytes 1000

Starts the real API over real servers, sends it one zip of distinct pictures that is made while it
is sent, and prints how far the process's resident memory rose at its peak.
"""

import argparse
import io
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from app.cli.embedded import EmbeddedServers
from app.cli.stack.ports import LOOPBACK, free_port
from app.cli.stack.processes import api_child

BOUNDARY = b"a-boundary-of-the-bench"
SIDE_PX = (1280, 960)
TIMEOUT_SECONDS = 900.0


@dataclass(frozen=True)
class Rise:
    """What one upload took."""

    sent_bytes: int
    pictures: int
    before_bytes: int
    peak_bytes: int
    seconds: float

    @property
    def bytes(self) -> int:
        """How far resident memory rose at its peak."""
        return self.peak_bytes - self.before_bytes


class _Pieces(io.RawIOBase):
    """Where zipfile writes: what was written since it was last asked."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self._pieces.append(piece)
        return len(piece)

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def a_picture() -> bytes:
    """A JPEG of noise of about a megabyte."""
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE_PX[1], SIDE_PX[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def zip_of(picture: bytes, count: int) -> Iterator[bytes]:
    """A stored zip of so many pictures that differ in bytes, piece by piece."""
    pieces = _Pieces()
    with zipfile.ZipFile(pieces, "w", zipfile.ZIP_STORED) as archive:
        for number in range(count):
            # Decoders stop at the end of the picture, so a tail makes it another file.
            archive.writestr(f"{number:05d}.jpg", picture + number.to_bytes(8))
            yield pieces.take()
    yield pieces.take()


def form_of(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """A multipart form with one file."""
    yield b"--" + BOUNDARY + b"\r\n"
    yield b'Content-Disposition: form-data; name="files"; filename="many.zip"\r\n\r\n'
    yield from pieces
    yield b"\r\n--" + BOUNDARY + b"--\r\n"


def memory(pid: int, field: str) -> int:
    """A figure of /proc/PID/status, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc has no {field}")


def measure(variables: dict[str, str], key: str, logs: Path, megabytes: int) -> Rise:
    """Send the API an upload of about so many megabytes, after a small one that warms it up."""
    port = free_port()
    api = api_child(LOOPBACK, port, variables, logs)
    api.start()
    try:
        api.wait_ready()
        with httpx.Client(
            base_url=f"http://{LOOPBACK}:{port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=TIMEOUT_SECONDS,
        ) as client:
            picture = a_picture()
            count = max(1, megabytes * 1_000_000 // len(picture))
            _send(client, picture, 8)
            # Peak figures begin anew.
            Path(f"/proc/{api.pid}/clear_refs").write_text("5")
            before = memory(api.pid, "VmRSS")
            started = time.monotonic()
            _send(client, picture, count)
            seconds = time.monotonic() - started
            return Rise(
                sent_bytes=count * len(picture),
                pictures=count,
                before_bytes=before,
                peak_bytes=memory(api.pid, "VmHWM"),
                seconds=seconds,
            )
    finally:
        api.stop()


def _send(client: httpx.Client, picture: bytes, count: int) -> None:
    request = {"name": "many", "task": "style", "trigger_word": "many"}
    dataset = client.post("/v1/datasets", json=request).raise_for_status().json()["id"]
    answer = client.post(
        f"/v1/datasets/{dataset}/images",
        content=form_of(zip_of(picture, count)),
        headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"},
    )
    assert answer.status_code == 201, answer.text[:500]
    assert answer.json()["accepted"] == count


def main() -> None:
    from app.accounts import keys
    from app.accounts import service as accounts
    from app.database import transaction
    from app.migrate import upgrade
    from app.settings import get_settings

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    megabytes = parser.parse_args().megabytes
    with (
        tempfile.TemporaryDirectory(prefix="lorawright-bench-") as folder,
        EmbeddedServers(Path(folder), provided={}) as servers,
    ):
        variables = servers.environment() | {
            "LORAWRIGHT_LOG_LEVEL": "warning",
            "LORAWRIGHT_MAX_UPLOAD_BYTES": str(2 * 1024**3),
        }
        os.environ |= variables
        upgrade(get_settings().database_url)
        with transaction() as session:
            account = accounts.create_account(session, "bench")
            _, key = keys.create_key(session, account.id, "bench")
        rise = measure(variables, key, Path(folder), megabytes)
    print(f"sent       {rise.sent_bytes / 1e6:8.0f} MB, {rise.pictures} pictures")
    print(f"took       {rise.seconds:8.1f} s")
    print(f"before     {rise.before_bytes / 2**20:8.1f} MiB")
    print(f"peak       {rise.peak_bytes / 2**20:8.1f} MiB")
    print(f"rise       {rise.bytes / 2**20:8.1f} MiB")


if __name__ == "__main__":
    main()
