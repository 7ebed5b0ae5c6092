"""Every block on every page is what it says, whether it is run or not; docs/writing-docs.md."""

from pathlib import Path

import pytest

from tests.docs.checks import wrong_with
from tests.docs.pages import all_pages, blocks_of, named


@pytest.mark.parametrize("page", all_pages(), ids=named)
def test_blocks_are_what_they_say(page: Path) -> None:
    wrong = [
        f"{block.place}: {reason}" for block in blocks_of(page) for reason in wrong_with(block)
    ]
    assert wrong == []
