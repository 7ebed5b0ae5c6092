"""Bytes onto local disk, where a full disk is our fault and not that of what is written."""

from io import FileIO

from app.errors import ServiceUnavailable


def write_all(sink: FileIO, data: bytes) -> None:
    """Write all of some bytes to an unbuffered file.

    Raises:
        ServiceUnavailable: there is no room.
    """
    left = memoryview(data)
    try:
        while left:
            left = left[sink.write(left) :]
    except OSError as error:
        raise ServiceUnavailable(f"Uploads cannot be taken now: {error.strerror}") from error
