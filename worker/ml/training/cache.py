"""Tensors on disk under a hash of all that they were made from, shared between trainings.

A file appears only when it is whole, and two makers of the same file make the same bytes, so
processes may share a folder without a lock.
"""

import hashlib
import json
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

# Part of every key: raised when what is stored, or how it is made, changes.
VERSION = 1


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
            return load_file(path)
        except FileNotFoundError:
            return None
        except SafetensorError:
            # A disk that filled up, or a foreign file: made again.
            path.unlink(missing_ok=True)
            return None

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store tensors, whole or not at all."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{uuid4().hex}.part")
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial)
        partial.replace(path)

    def _path(self, key: str) -> Path:
        # Two letters a folder keeps directories short however many pictures there are.
        return self._folder / key[:2] / f"{key}.safetensors"
