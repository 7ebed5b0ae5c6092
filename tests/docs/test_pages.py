"""Every command on every page is given, in order, as a reader would; docs/writing-docs.md."""

from pathlib import Path

import pytest

from app.settings import REPOSITORY
from tests.docs.checks import wrong_with
from tests.docs.conftest import read
from tests.docs.pages import FIRST, all_pages, blocks_of
from tests.docs.stage import Stack

PAGES = all_pages()
RUN = ("sh", "bash", "console", "python", FIRST)
# A page with five trainings, on a machine that is busy with much else.
PAGE_SECONDS = 3600


def _named(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_blocks_are_what_they_say(page: Path) -> None:
    wrong = [
        f"{block.place}: {reason}" for block in blocks_of(page) for reason in wrong_with(block)
    ]
    assert wrong == []


@pytest.mark.timeout(PAGE_SECONDS)
@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if any(block.language in RUN and not block.not_run for block in blocks_of(page))
    ],
    ids=_named,
)
def test_commands_work_in_the_order_of_the_page(
    stack: Stack, page: Path, request: pytest.FixtureRequest
) -> None:
    if any("demo/" in block.text for block in blocks_of(page) if not block.not_run):
        request.getfixturevalue("demo")
    read(stack, page)
