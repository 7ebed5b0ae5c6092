"""Base model files in the service's bucket come to a worker's disk once, whole."""

import hashlib
import subprocess
import sys
import threading

import pytest

from app.catalog import BaseModelEntry
from app.errors import JobInputMissing
from app.settings import get_settings
from app.storage import get_store
from worker.handlers import base_model_files
from worker.handlers.base_model_files import fetch_base_model
from worker.handlers.errors import ModelUnavailable

SIZE = 3_000_000


@pytest.fixture(autouse=True)
def folder(servers, tmp_path, monkeypatch):  # noqa: ARG001 (order)
    """The cache of this test, and none of its files in use before or after."""
    monkeypatch.setenv("LORAWRIGHT_WORK_DIR", str(tmp_path))
    monkeypatch.setenv("LORAWRIGHT_BASE_MODEL_CACHE_BYTES", str(2 * SIZE + 1))
    get_settings.cache_clear()
    yield tmp_path / "cache" / "base-models"
    for lock in base_model_files._in_use.values():
        base_model_files.os.close(lock)
    base_model_files._in_use.clear()
    base_model_files._checked.clear()
    monkeypatch.undo()
    get_settings.cache_clear()


def content(number: int) -> bytes:
    return bytes([number]) * SIZE


def stored(number: int) -> BaseModelEntry:
    """An entry whose file is in the bucket."""
    data = content(number)
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"base-models/{sha256}.safetensors"
    get_store().put_bytes(key, data, "application/octet-stream")
    return BaseModelEntry(
        id=f"base-{number}",
        title="Base",
        source=key,
        source_kind="s3",
        sha256=sha256,
        bytes=SIZE,
        like="emoji-64",
        architecture="emoji-64",
        native_resolution=64,
    )


def test_a_file_is_fetched_once():
    entry = stored(1)
    path = fetch_base_model(entry)
    assert path.read_bytes() == content(1)
    get_store().delete([entry.source])
    assert fetch_base_model(entry) == path
    assert not path.with_suffix(".part").exists()


def test_a_download_that_was_cut_short_goes_on_from_there(folder, monkeypatch):
    entry = stored(2)
    folder.mkdir(parents=True)
    (folder / f"{entry.sha256}.part").write_bytes(content(2)[: SIZE // 3])
    starts = []
    chunks = get_store().chunks

    def watched(key, *, start, size):
        starts.append(start)
        return chunks(key, start=start, size=size)

    monkeypatch.setattr(get_store(), "chunks", watched)
    assert fetch_base_model(entry).read_bytes() == content(2)
    assert starts == [SIZE // 3]


def test_a_damaged_beginning_is_fetched_anew(folder):
    entry = stored(3)
    folder.mkdir(parents=True)
    (folder / f"{entry.sha256}.part").write_bytes(b"damaged")
    assert fetch_base_model(entry).read_bytes() == content(3)


def test_another_file_than_the_catalogs_is_refused_and_leaves_nothing(folder):
    entry = stored(4)
    for wrong in (content(5), content(4) + b"more", content(4)[:-1]):
        get_store().put_bytes(entry.source, wrong, "application/octet-stream")
        with pytest.raises(ModelUnavailable, match="not the one that the catalog names"):
            fetch_base_model(entry)
        assert not list(folder.glob("*.safetensors"))
        assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("damage", [b"damaged", b"\0" * SIZE], ids=["cut short", "other bytes"])
def test_a_file_that_is_damaged_on_disk_is_fetched_anew(damage):
    entry = stored(15)
    path = fetch_base_model(entry)
    path.write_bytes(damage)
    # Another process, or this one after a restart.
    base_model_files._checked.clear()
    assert fetch_base_model(entry).read_bytes() == content(15)


def test_a_file_is_read_through_once_a_process(monkeypatch):
    entry = stored(16)
    fetch_base_model(entry)
    base_model_files._checked.clear()
    read = []
    sha256 = base_model_files._sha256
    monkeypatch.setattr(base_model_files, "_sha256", lambda path: read.append(path) or sha256(path))
    paths = {fetch_base_model(entry) for _ in range(3)}
    assert read == list(paths)


def test_two_processes_fetch_a_file_once_though_the_first_is_killed_half_way(folder):
    entry = stored(17)
    first = other_process(entry, stall_after=1)
    assert line_of(first) == f"has {SIZE // 3}"
    second = other_process(entry)
    assert not list(folder.glob("*.safetensors")), "nothing half is ever in its place"
    first.kill()
    first.wait()
    assert first.stdout is not None
    first.stdout.close()
    told = [line.strip() for line in second.stdout or ()]
    with second:
        pass
    # It went on from where the first was killed, and a third needs storage no more.
    assert told == [f"from {SIZE // 3}", f"has {2 * SIZE // 3}", f"has {SIZE}", "whole"]
    third = other_process(entry)
    assert [line.strip() for line in third.stdout or ()] == ["whole"]
    with third:
        pass
    assert not list(folder.glob("*.part"))


def other_process(entry: BaseModelEntry, stall_after: int | None = None) -> subprocess.Popen[str]:
    """A worker of this machine that wants the file, and says what it asks of storage."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, entry.model_dump_json(), str(stall_after or 0)],
        stdout=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# Pieces are a third of the file; after `stall_after` of them the process waits to be killed.
FETCH = """
import sys, time
from app.catalog import BaseModelEntry
from app.storage import get_store
from worker.handlers import base_model_files

entry, stall_after = BaseModelEntry.model_validate_json(sys.argv[1]), int(sys.argv[2])
chunks = get_store().chunks

def told(key, *, start, size):
    if start:
        print("from", start, flush=True)
    has = start
    for number, piece in enumerate(chunks(key, start=start, size=entry.bytes // 3), 1):
        yield piece
        has += len(piece)
        print("has", has, flush=True)
        if number == stall_after:
            time.sleep(600)

base_model_files.get_store = lambda: type("Store", (), {"chunks": staticmethod(told)})
path = base_model_files.fetch_base_model(entry)
print("whole" if path.stat().st_size == entry.bytes else "half", flush=True)
"""


def test_a_file_that_is_gone_from_storage_is_named():
    entry = stored(6)
    get_store().delete([entry.source])
    with pytest.raises(JobInputMissing, match="base-6"):
        fetch_base_model(entry)


def test_two_that_want_the_same_fetch_it_once(monkeypatch):
    entry = stored(7)
    fetched = []
    chunks = get_store().chunks

    def counted(key, *, start, size):
        fetched.append(start)
        return chunks(key, start=start, size=size)

    monkeypatch.setattr(get_store(), "chunks", counted)
    threads = [threading.Thread(target=fetch_base_model, args=(entry,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == [0]


def test_the_least_used_go_first_where_the_disk_is_full(folder):
    entries = [stored(number) for number in (8, 9, 10)]
    for entry in entries:
        fetch_base_model(entry)
    # Those before the last two are no longer in use by this process.
    assert sorted(path.stem for path in folder.glob("*.safetensors")) == sorted(
        entry.sha256 for entry in entries[1:]
    )


def test_a_file_that_another_process_uses_stays():
    entries = [stored(number) for number in (11, 12, 13, 14)]
    first = fetch_base_model(entries[0])
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys\n"
            "lock = open(sys.argv[1], 'a')\n"
            "fcntl.flock(lock, fcntl.LOCK_SH)\n"
            "print('held', flush=True)\n"
            "sys.stdin.read()",
            str(first.with_suffix(".use")),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        for entry in entries[1:3]:
            fetch_base_model(entry)
        assert first.exists()
        holder.stdin.close()
        holder.wait()
    fetch_base_model(entries[3])
    assert not first.exists()
