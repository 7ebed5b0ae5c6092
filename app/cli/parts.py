"""A large archive, sent straight to storage in parts: a broken connection costs one part."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from app.cli.client import Client, Json
from app.cli.errors import CommandError

# Smaller ones go as a form, whose answer is there at once.
LARGE_BYTES = 256 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
ATTEMPTS = 5
PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 120.0


def upload_in_parts(
    client: Client, dataset_id: str, archive: Path, say: Callable[[str], None]
) -> Json:
    """Send an archive and complete it; the upload, whose `ingest` is the job that unpacks it.

    Raises:
        CommandError: a part cannot be sent.
    """
    size = archive.stat().st_size
    request = {"filename": archive.name, "size": size, "sha256": _sha256(archive)}
    upload = client.post(f"/datasets/{dataset_id}/uploads", request)
    path = f"/datasets/{dataset_id}/uploads/{upload['id']}"
    count = len(upload["parts"])
    for attempt in range(1, ATTEMPTS + 1):
        for part in upload["parts"]:
            if part["url"] is None:
                continue
            sent = (part["number"] - 1) * upload["part_size"]
            say(f"{archive.name}: part {part['number']} of {count}")
            try:
                _put(part["url"], archive, sent, part["size"])
            except httpx.HTTPError as error:
                if attempt == ATTEMPTS:
                    raise CommandError(
                        f"part {part['number']} of {archive.name} could not be sent: "
                        f"{type(error).__name__}"
                    ) from error
        # What has arrived, and fresh addresses for what has not.
        upload = client.get(path)
        if all(part["url"] is None for part in upload["parts"]):
            break
        time.sleep(PAUSE_SECONDS * attempt)
    return client.post(f"{path}/complete", {})


def _put(url: str, archive: Path, start: int, size: int) -> None:
    # Without a length httpx would send chunks, which S3 does not take.
    headers = {"Content-Length": str(size)}
    body = _slice(archive, start, size)
    httpx.put(url, content=body, headers=headers, timeout=TIMEOUT_SECONDS).raise_for_status()


def _slice(archive: Path, start: int, size: int) -> Iterator[bytes]:
    with archive.open("rb") as opened:
        opened.seek(start)
        left = size
        while left > 0 and (chunk := opened.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
