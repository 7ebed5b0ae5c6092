"""The stack that all pages are read over, and what the README leaves."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import REPOSITORY
from tests.docs.pages import blocks_of
from tests.docs.stage import Stack, reading, running_stack

README = REPOSITORY / "README.md"
DEMO = ("ink.safetensors", "riso.safetensors")


def read(stack: Stack, page: Path) -> None:
    """Give every command of a page; keep the LoRAs that the README trains for other pages."""
    with reading(stack) as reader:
        for block in blocks_of(page):
            reader.run(block)
        if page == README:
            stack.demo.mkdir(exist_ok=True)
            for name in DEMO:
                shutil.copy(reader.folder / name, stack.demo / name)


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """Started once."""
    with running_stack() as running:
        yield running


@pytest.fixture(scope="package")
def demo(stack: Stack) -> Path:
    """Two trained LoRAs; the README is the first page of all, so that they are there already."""
    if not all((stack.demo / name).exists() for name in DEMO):
        read(stack, README)
    return stack.demo
