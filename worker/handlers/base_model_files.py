"""Base model files from the service's bucket: fetched once a machine, whole, checked by their hash.

Several processes of a machine share the folder. Of each file there is a lock that whoever fetches
holds, and one that whoever uses it shares, so that nobody removes what another has in use. Locks
are flock's: they end with their process, however it ends.
"""

import fcntl
import hashlib
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from app.catalog import BaseModelEntry
from app.errors import JobInputMissing, NotFound
from app.settings import get_settings
from app.storage import get_store
from worker.handlers.errors import ModelUnavailable
from worker.workspace import cache_folder

log = logging.getLogger(__name__)

FOLDER = "base-models"
_CHUNK_BYTES = 8 * 1024**2
# sha256 of each file this process has in use, least lately asked for first, and its open lock.
_in_use: OrderedDict[str, int] = OrderedDict()
_in_use_lock = threading.Lock()
# sha256 of those whose bytes this process has read through; disks fail, and a process that is
# killed while another writes is not the only way to a damaged file.
_checked: set[str] = set()


def fetch_base_model(entry: BaseModelEntry) -> Path:
    """The file of an `s3` entry on this machine, downloaded now unless it is there.

    Each process reads it through once, and a file that is damaged is fetched anew. It stays there
    while this process keeps using it: until as many others have been asked for as
    there may be loaded, and one more for a training.

    Raises:
        JobInputMissing: storage no longer has it.
        ModelUnavailable: what storage has is another file than the catalog says.
        StorageUnavailable: storage is away; what has come so far is kept, to go on from.
    """
    assert entry.sha256 is not None, "the catalog checks that s3 entries have a hash"
    folder = cache_folder(FOLDER)
    path = folder / f"{entry.sha256}.safetensors"
    _use(folder, entry.sha256)
    with _locked(folder / f"{entry.sha256}.fetch"):
        if path.exists() and not _is_whole(entry, path):
            log.warning("base model %s is damaged on this disk, and is fetched anew", entry.id)
            path.unlink()
        if not path.exists():
            _download(entry, path)
        _checked.add(entry.sha256)
        os.utime(path)
    _prune(folder, get_settings().base_model_cache_bytes)
    return path


def _is_whole(entry: BaseModelEntry, path: Path) -> bool:
    """Whether the file has the catalog's bytes: all of them the first time, then their number."""
    if path.stat().st_size != entry.bytes:
        return False
    return entry.sha256 in _checked or _sha256(path) == entry.sha256


def _download(entry: BaseModelEntry, path: Path) -> None:
    """Fetch to a file beside, from where an earlier attempt was cut short."""
    partial = path.with_suffix(".part")
    resumed = partial.exists()
    log.info("fetching base model %s, %s bytes", entry.id, entry.bytes)
    _go_on(entry, partial)
    if _sha256(partial) != entry.sha256:
        partial.unlink()
        if resumed:
            # What an earlier attempt left may have been damaged; once more from the start.
            _download(entry, path)
            return
        raise ModelUnavailable(
            "base_model_unavailable",
            f"The stored file of base model {entry.id} is not the one that the catalog names",
        )
    partial.replace(path)


def _go_on(entry: BaseModelEntry, partial: Path) -> None:
    """Append what is missing, and stop where there is more than there should be."""
    assert entry.bytes is not None, "the catalog checks that s3 entries have a size"
    with partial.open("ab") as file:
        if file.tell() >= entry.bytes:
            return
        try:
            for chunk in get_store().chunks(entry.source, start=file.tell(), size=_CHUNK_BYTES):
                file.write(chunk)
                if file.tell() > entry.bytes:
                    break
        except NotFound as error:
            raise JobInputMissing(
                f"The file of base model {entry.id} is gone from storage"
            ) from error
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _use(folder: Path, sha256: str) -> None:
    """Share the lock that keeps a file from being removed."""
    with _in_use_lock:
        if sha256 not in _in_use:
            lock = os.open(folder / f"{sha256}.use", os.O_CREAT | os.O_RDWR)
            fcntl.flock(lock, fcntl.LOCK_SH)
            _in_use[sha256] = lock
        _in_use.move_to_end(sha256)
        while len(_in_use) > get_settings().pipeline_cache_count + 1:
            _, lock = _in_use.popitem(last=False)
            os.close(lock)


def _prune(folder: Path, capacity_bytes: int) -> None:
    """Remove the files least lately used until the rest fits; those in use stay."""
    stamped = []
    for path in folder.glob("*.safetensors"):
        # Another process may prune too.
        with suppress(FileNotFoundError):
            found = path.stat()
            stamped.append((found.st_mtime, found.st_size, path))
    total = sum(size for _, size, _ in stamped)
    for _, size, path in sorted(stamped):
        if total <= capacity_bytes:
            return
        with _unused(path.with_suffix(".use")) as unused:
            if unused:
                path.unlink(missing_ok=True)
                total -= size


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process is in this block."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Whether no process uses a file; in the block none can begin to."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
