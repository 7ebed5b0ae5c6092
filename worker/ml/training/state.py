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

from safetensors.torch import load_file, save_file
from torch import Tensor

KEPT = 2
_PREFIX = "state-"
_MANIFEST = "manifest.json"
_TENSORS = "tensors.safetensors"
_POSITION = "position.json"
_FILES = (_TENSORS, _POSITION)


@dataclass(frozen=True)
class Measured:
    """What was measured at a checkpoint; None where it was not.

    Attributes:
        validation_loss: of the LoRA, base_validation_loss of the base alone on the same pictures.
        prior_drift: how far generic prompts moved.
    """

    validation_loss: float | None = None
    base_validation_loss: float | None = None
    prior_drift: float | None = None

    @property
    def rank(self) -> float | None:
        """To compare checkpoints by, lower is better; hard pictures are so for the base too."""
        if self.validation_loss is None or not self.base_validation_loss:
            return self.validation_loss
        return self.validation_loss / self.base_validation_loss


@dataclass
class Position:
    """Where a run is.

    Attributes:
        step: optimizer steps done.
        checkpoints: what was measured, by step.
        spec_sha256: of the spec; another spec's state is not gone on from.
        memory: the plan's rung, if memory ran out on the way.
        ended_early: whether the last checkpoints were no better than the best.
    """

    step: int
    spec_sha256: str
    checkpoints: dict[int, Measured] = field(default_factory=dict)
    first_loss: float | None = None
    last_loss: float | None = None
    first_validation_loss: float | None = None
    ended_early: bool = False
    memory: dict[str, Any] | None = None
    # Numbers of the optimizer, the loss' scaler and the like that are no tensors.
    extra: dict[str, Any] = field(default_factory=dict)


def save_state(folder: Path, position: Position, tensors: Mapping[str, Tensor]) -> Path:
    """Write a state and drop all but the newest two; its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{_PREFIX}{position.step:08d}"
    for left in folder.glob(f".{_PREFIX}*"):
        # Of a run that was killed while it wrote.
        shutil.rmtree(left, ignore_errors=True)
    partial = folder / f".{final.name}.{os.getpid()}"
    partial.mkdir()
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        partial / _TENSORS,
    )
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
            broken = [name for name in _FILES if _sha256(path / name) != hashes[name]]
            if broken:
                notes.append(f"{path.name} is damaged ({', '.join(broken)}); an older one is used")
                continue
            if _read_position(path).spec_sha256 != spec_sha256:
                notes.append(f"{path.name} is of another spec")
                continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            notes.append(f"{path.name} cannot be read ({error}); an older one is used")
            continue
        return path, notes
    return None, notes


def load_state(path: Path) -> tuple[Position, dict[str, Tensor]]:
    """Where a state's run was, and its tensors."""
    return _read_position(path), load_file(path / _TENSORS)


def _read_position(path: Path) -> Position:
    stored: dict[str, Any] = json.loads((path / _POSITION).read_text())
    stored["checkpoints"] = {
        int(step): Measured(**measured) for step, measured in stored["checkpoints"].items()
    }
    return Position(**stored)


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
