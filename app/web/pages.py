"""Lists: newest first, by keyset, each page naming where the next begins."""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from pydantic import BaseModel


class HasId(Protocol):
    """A row or item with an id."""

    @property
    def id(self) -> str: ...


Item = TypeVar("Item")
Row = TypeVar("Row", bound=HasId)


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    data: list[Item]
    has_more: bool
    next: str | None


def page_of(rows: Sequence[Row], limit: int, read: Callable[[Row], Item]) -> Page[Item]:
    """A page from up to `limit + 1` rows; the one too many only says that there is more."""
    shown = rows[:limit]
    more = len(rows) > limit
    return Page(
        data=[read(row) for row in shown], has_more=more, next=shown[-1].id if more else None
    )
