"""What a killed run goes on from: matrices, optimizer moments, where it was; never half written.

A state is a folder, made under a temporary name, synced, and renamed. Its manifest holds the hash
of each file, so one cut short is recognised and the one before it is used. Nothing is pickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

KEPT = 2
_PREFIX = "state-"
_MANIFEST = "manifest.json"
_TENSORS = "tensors.safetensors"
_POSITION = "position.json"


@dataclass
class Position:
    """Where a run is.

    Attributes:
        step: optimizer steps done.
        checkpoints: validation loss by step of each checkpoint, None where it was not measured.
        spec_sha256: of the spec; another spec's state is not gone on from.
    """

    step: int
    spec_sha256: str
    checkpoints: dict[int, float | None] = field(default_factory=dict)
    first_loss: float | None = None
    last_loss: float | None = None
    first_validation_loss: float | None = None
    last_validation_loss: float | None = None
    # Of float16 training: the loss's scale and how long it has held.
    grad_scaler: dict[str, Any] | None = None


def save_state(
    folder: Path,
    position: Position,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> Path:
    """Write a state and drop all but the newest two; its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{_PREFIX}{position.step:08d}"
    partial = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"{name}.value"] = parameter.detach().cpu().contiguous()
        for kind, value in optimizer.state[parameter].items():
            tensors[f"{name}.{kind}"] = torch.as_tensor(value).detach().cpu().contiguous()
    save_file(tensors, partial / _TENSORS)
    (partial / _POSITION).write_text(json.dumps(asdict(position), sort_keys=True))
    hashes = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
    (partial / _MANIFEST).write_text(json.dumps(hashes, sort_keys=True))
    for path in partial.iterdir():
        _sync(path)
    _sync(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _sync(folder)
    for old in _states(folder)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def newest_state(folder: Path, spec_sha256: str) -> tuple[Path | None, list[str]]:
    """The newest sound state of this spec, and a sentence for each that was passed over."""
    notes: list[str] = []
    for path in _states(folder):
        try:
            hashes = json.loads((path / _MANIFEST).read_text())
            broken = [
                name for name in (_TENSORS, _POSITION) if _sha256(path / name) != hashes[name]
            ]
            if broken:
                notes.append(f"{path.name} is damaged ({', '.join(broken)}); an older one is used")
                continue
            if read_position(path).spec_sha256 != spec_sha256:
                notes.append(f"{path.name} is of another spec")
                continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            notes.append(f"{path.name} cannot be read ({error}); an older one is used")
            continue
        return path, notes
    return None, notes


def read_position(path: Path) -> Position:
    """Where the run of a state was."""
    stored: dict[str, Any] = json.loads((path / _POSITION).read_text())
    stored["checkpoints"] = {int(step): loss for step, loss in stored["checkpoints"].items()}
    return Position(**stored)


def load_state(
    path: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Position:
    """Put a state's matrices and moments in place; where it was."""
    tensors = load_file(path / _TENSORS)
    for name, parameter in parameters.items():
        moments: dict[str, Tensor] = {}
        for key in [key for key in tensors if key.rpartition(".")[0] == name]:
            kind, value = key.rpartition(".")[2], tensors[key]
            if kind == "value":
                with torch.no_grad():
                    parameter.copy_(value)
            else:
                # AdamW counts its steps on the CPU unless it is fused on a GPU.
                place = parameter.device if kind != "step" or _fused(optimizer) else "cpu"
                moments[kind] = value.to(place)
        optimizer.state[parameter] = moments
    return read_position(path)


def _fused(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer.param_groups[0].get("fused"))


def _states(folder: Path) -> list[Path]:
    """State folders, newest first."""
    return sorted(folder.glob(f"{_PREFIX}*"), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
