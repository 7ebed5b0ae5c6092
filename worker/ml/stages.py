"""Parts of the work that whoever asked for it may measure."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Stage(Protocol):
    """Called with a part's name and what it is about; the `with` block is that part."""

    def __call__(self, name: str, **numbers: int) -> AbstractContextManager[None]: ...


@contextmanager
def unmeasured(name: str, **numbers: int) -> Iterator[None]:  # noqa: ARG001 (nobody asks)
    """Where nobody wants to know."""
    yield
