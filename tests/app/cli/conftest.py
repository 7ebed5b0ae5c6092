"""What the command line's tests share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def stack_dir() -> Iterator[Path]:
    """An empty folder for a stack.

    Not under pytest's own, whose mode each run sets back to its owner's alone: root's Postgres,
    which runs as another user, could not enter it.
    """
    with tempfile.TemporaryDirectory(prefix="lorawright-stack-") as folder:
        yield Path(folder) / "stack"
