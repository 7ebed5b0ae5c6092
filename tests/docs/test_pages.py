"""Every command on every page is given, in order, as a reader would; docs/writing-docs.md."""

from pathlib import Path

import pytest

from tests.docs.conftest import read
from tests.docs.pages import FIRST, all_pages, blocks_of, named
from tests.docs.stage import Stack

RUN = ("sh", "bash", "console", "python", FIRST)
# A page with five trainings, on a machine that is busy with much else.
PAGE_SECONDS = 3600


@pytest.mark.timeout(PAGE_SECONDS)
@pytest.mark.parametrize(
    "page",
    [
        page
        for page in all_pages()
        if any(block.language in RUN and not block.not_run for block in blocks_of(page))
    ],
    ids=named,
)
def test_commands_work_in_the_order_of_the_page(
    stack: Stack, page: Path, request: pytest.FixtureRequest
) -> None:
    if any("demo/" in block.text for block in blocks_of(page) if not block.not_run):
        request.getfixturevalue("demo")
    read(stack, page)
