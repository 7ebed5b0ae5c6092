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


def hash_model_files(sources: Mapping[str, Path]) -> str:
    """sha256 of the weights a base model is made of, whatever device or precision will run them.

    Remembered by the files' names, sizes and times, as hashing a full SDXL takes many seconds.

    Args:
        sources: by part, a folder with safetensors files or one file; see `BaseModel.sources`.

    Raises:
        FileNotFoundError: there is no safetensors file at all.
    """
    files = {(label, path) for part in sources for label, path in weight_files(part, sources[part])}
    if not files:
        raise FileNotFoundError(f"no safetensors files under {sorted(map(str, sources.values()))}")
    return _hash_files(
        tuple(
            (label, path, (s := path.stat()).st_size, s.st_mtime_ns)
            for label, path in sorted(files)
        )
    )


def weight_files(part: str, source: Path) -> list[tuple[str, Path]]:
    """A part's weight files, each with what goes before its tensors' names.

    A folder's tensors are the part's; a single file names the parts itself.
    """
    if source.is_file():
        return [("", source)]
    return [(f"{part}.", path) for path in sorted(source.glob("*.safetensors"))]


@lru_cache(maxsize=32)
def _hash_files(stamped: tuple[tuple[str, Path, int, int], ...]) -> str:
    from safetensors import safe_open

    digest = hashlib.sha256()
    with ExitStack() as stack:
        # Sorted by tensor, not by file, so that sharding makes no difference.
        found = {}
        for label, path, _, _ in stamped:
            file = stack.enter_context(safe_open(str(path), framework="pt"))
            names = file.keys()
            found.update({f"{label}{name}": (file, name) for name in names})
        for full_name in sorted(found):
            file, name = found[full_name]
            _add(digest, full_name, file.get_tensor(name))
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
    digest.update(header.encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
