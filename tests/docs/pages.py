"""What stands between fences on a page of the docs, and the comments that say what is special."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from app.settings import REPOSITORY

# What a comment before a block may say of it; see docs/writing-docs.md.
MARKS = ("not run", "refused", "file", "schema")
# A comment that may stand anywhere: commands that a reader is taken to have given.
FIRST = "first"
# What a tool has written between these is not looked at as a mark.
GENERATED = re.compile(r"<!--\s*/?generated\s*-->")
COMMENT = re.compile(r"<!--\s*([a-z ]+?):\s*(.*?)\s*-->", re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block. `first` is how commands of a comment read; they have no fence.

    Attributes:
        line: of its first line of text, from 1.
        marks: what the comments right before it say, by their first words.
    """

    page: Path
    line: int
    language: str
    text: str
    marks: dict[str, str]

    @property
    def place(self) -> str:
        """Where it is, as editors understand it."""
        return f"{named(self.page)}:{self.line}"

    @property
    def not_run(self) -> bool:
        """Whether it cannot be run by a test, and says why."""
        return "not run" in self.marks


class UnreadablePage(Exception):
    """A page has a block of which nobody could say what it is."""


def all_pages() -> list[Path]:
    """Every page for readers, the README first."""
    folders = (REPOSITORY / "docs", REPOSITORY / "examples")
    return [
        REPOSITORY / "README.md",
        *sorted(page for folder in folders for page in folder.rglob("*.md")),
    ]


def named(page: Path) -> str:
    """What a page is called: its path from the repository's root."""
    return str(page.relative_to(REPOSITORY))


def blocks_of(page: Path) -> list[Block]:
    """The page's blocks in their order.

    Raises:
        UnreadablePage: code without a fence, or a comment before a block that is not understood.
    """
    return list(_blocks(page, MarkdownIt("commonmark").parse(page.read_text())))


def _blocks(page: Path, tokens: list[Token]) -> Iterator[Block]:
    marks: dict[str, str] = {}
    for token in tokens:
        line = token.map[0] + 1 if token.map else 0
        if token.type == "html_block":
            for name, text in _comments(token.content, f"{page.name}:{line}"):
                if name == FIRST:
                    yield Block(page, line, FIRST, text, {})
                else:
                    marks[name] = text
        elif token.type == "fence":
            yield Block(page, line + 1, token.info.strip(), token.content, marks)
            marks = {}
        elif token.type == "code_block":
            raise UnreadablePage(f"{page.name}:{line}: indented code; put it between fences")
        elif marks and token.nesting >= 0:
            raise UnreadablePage(f"{page.name}:{line}: no block follows the comment {marks}")
    if marks:
        raise UnreadablePage(f"{page.name}: no block follows the comment {marks}")


def _comments(html: str, place: str) -> Iterator[tuple[str, str]]:
    for comment in re.findall(r"<!--.*?-->", html, re.S):
        if GENERATED.fullmatch(comment):
            continue
        found = COMMENT.fullmatch(comment)
        if found is None or found[1] not in (*MARKS, FIRST) or not found[2]:
            known = ", ".join((*MARKS, FIRST))
            raise UnreadablePage(f"{place}: {comment} is none of: {known}, a colon, and words")
        yield found[1], found[2]
