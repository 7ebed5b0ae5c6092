"""A client that goes away in the middle of an upload, with the real server on the other end."""

import socket
import time
from pathlib import Path

from app.accounts import keys
from app.accounts import service as accounts
from app.cli.embedded import EmbeddedServers
from app.cli.stack.ports import LOOPBACK, free_port
from app.cli.stack.processes import api_child
from app.database import transaction
from app.datasets import service
from app.datasets.schemas import DatasetCreate

MIB = 1024 * 1024
DEADLINE_SECONDS = 20.0


def until_empty(folder: Path, empty: bool) -> bool:
    """Wait for a folder to be so; whether it came to that."""
    ends = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < ends:
        if bool(list(folder.iterdir())) != empty:
            return True
        time.sleep(0.01)
    return False


def beginning(dataset_id: str, key: str, told: bool) -> bytes:
    """A request of which four megabytes have been sent, with and without its length."""
    length = "Content-Length: 500000000" if told else "Transfer-Encoding: chunked"
    head = (
        f"POST /v1/datasets/{dataset_id}/images HTTP/1.1\r\nHost: x\r\n{length}\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.zip"\r\n\r\n'
    body = part + bytes(4 * MIB)
    return head.encode() + (body if told else f"{len(body):x}\r\n".encode() + body + b"\r\n")


def test_nothing_is_left_in_the_temporary_folder(clean: EmbeddedServers, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with transaction() as session:
        account = accounts.create_account(session, "leaver")
        _, key = keys.create_key(session, account.id, "test")
        request = DatasetCreate(name="x", task="style", trigger_word="x")
        dataset_id = service.create(session, account.id, request).id
    port = free_port()
    variables = clean.environment() | {"TMPDIR": str(temporary)}
    api = api_child(LOOPBACK, port, variables, tmp_path)
    api.start()
    try:
        api.wait_ready()
        for told in (True, False):
            with socket.create_connection((LOOPBACK, port)) as connection:
                connection.sendall(beginning(dataset_id, key, told))
                assert until_empty(temporary, empty=False)
            assert until_empty(temporary, empty=True)
    finally:
        api.stop()
