"""LoRA files on this machine: fetched once whoever asks, under their hash, the least used go."""

import os
import tempfile
import time
from pathlib import Path

from app.database import JsonObject
from app.errors import JobInputMissing, NotFound
from app.settings import get_settings
from app.storage import get_store
from worker.workspace import cache_folder

FOLDER = "loras"
# A file used so lately may be about to be read.
IN_USE_SECONDS = 900.0


def fetch_lora(lora: JsonObject) -> Path:
    """The file of a frozen LoRA (`lora`, `name`, `sha256`, `object_key`), downloaded if need be.

    Raises:
        JobInputMissing: storage no longer has it.
    """
    folder = cache_folder(FOLDER)
    path = folder / f"{lora['sha256']}.safetensors"
    try:
        os.utime(path)
    except FileNotFoundError:
        _download(lora, path)
        _prune(folder, get_settings().lora_disk_cache_bytes)
    return path


def _download(lora: JsonObject, path: Path) -> None:
    # A folder of its own: several processes, or threads, may fetch the same file.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="fetch-") as folder:
        target = Path(folder, path.name)
        try:
            get_store().get_file(lora["object_key"], target)
        except NotFound as error:
            raise JobInputMissing(f"The file of {lora['lora']} ({lora['name']}) is gone") from error
        target.replace(path)


def _prune(folder: Path, capacity_bytes: int) -> None:
    """Remove the files least lately used until the rest fits; another process may do the same."""
    stamped = []
    for path in folder.glob("*.safetensors"):
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        stamped.append((found.st_mtime, found.st_size, path))
    total = sum(size for _, size, _ in stamped)
    for used_at, size, path in sorted(stamped):
        if total <= capacity_bytes or time.time() - used_at < IN_USE_SECONDS:
            return
        path.unlink(missing_ok=True)
        total -= size
