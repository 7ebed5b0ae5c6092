"""Tensors on disk under a hash of all that they were made from, shared between trainings.

A file appears only when it is whole and then never changes: of two makers the first one's stays,
as their last bits may differ and a resumed run must find what it began with. So processes may
share a folder without a lock.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

# Part of every key: raised when what is stored, or how it is made, changes.
VERSION = 3


def cache_key(*parts: object) -> str:
    """A hash of the parts, which must be plain JSON values."""
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()


class TensorCache:
    """A folder of small safetensors files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> dict[str, Tensor] | None:
        """What is stored under a key; None when there is nothing sound."""
        path = self._path(key)
        try:
            # Copies: a mapped file that is cut short kills the process.
            return {name: tensor.clone() for name, tensor in load_file(path).items()}
        except FileNotFoundError:
            return None
        except SafetensorError:
            # A disk that filled up, or a foreign file: made again.
            path.unlink(missing_ok=True)
            return None

    def has(self, key: str) -> bool:
        """Whether something sound is stored under a key; only its header is read."""
        path = self._path(key)
        try:
            with safe_open(str(path), framework="pt"):
                return True
        except FileNotFoundError:
            return False
        except SafetensorError:
            path.unlink(missing_ok=True)
            return False

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store tensors, whole or not at all; what is there already stays."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{uuid4().hex}.part")
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial)
        with suppress(FileExistsError):
            path.hardlink_to(partial)
        partial.unlink()

    def _path(self, key: str) -> Path:
        # Two letters a folder keeps directories short however many pictures there are.
        return self._folder / key[:2] / f"{key}.safetensors"
