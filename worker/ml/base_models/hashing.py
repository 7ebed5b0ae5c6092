"""Fingerprint a base model's weights: for receipts, and to prove that nothing changed them."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn


def hash_networks(networks: Mapping[str, nn.Module]) -> str:
    """sha256 of loaded networks' weights as they are now, in their current precision.

    Over tensors in ascending order of name: each one's name, dtype, shape and bytes. The device
    makes no difference; one bit of one weight does.
    """
    return hash_tensors(
        {
            f"{part}.{name}": tensor
            for part, network in networks.items()
            for name, tensor in network.state_dict().items()
        }
    )


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over tensors in ascending order of name: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        _add(digest, name, tensors[name])
    return digest.hexdigest()


def hash_model_files(folder: Path) -> str:
    """sha256 of the weights a model folder holds, whatever device or precision will run them.

    Remembered by the files' names, sizes and times, as hashing a full SDXL takes many seconds.

    Raises:
        FileNotFoundError: the folder holds no safetensors file.
    """
    files = sorted(folder.glob("*/*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no safetensors files under {folder}")
    return _hash_files(tuple((path, (s := path.stat()).st_size, s.st_mtime_ns) for path in files))


@lru_cache(maxsize=32)
def _hash_files(stamped: tuple[tuple[Path, int, int], ...]) -> str:
    from safetensors import safe_open

    digest = hashlib.sha256()
    with ExitStack() as stack:
        # Sorted by tensor, not by file, so that sharding makes no difference.
        found = {}
        for path, _, _ in stamped:
            file = stack.enter_context(safe_open(str(path), framework="pt"))
            names = file.keys()
            found.update({f"{path.parent.name}.{name}": (file, name) for name in names})
        for full_name in sorted(found):
            file, name = found[full_name]
            _add(digest, full_name, file.get_tensor(name))
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
    digest.update(header.encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
