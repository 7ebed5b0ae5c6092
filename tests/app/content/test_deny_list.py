"""A deny-list finds its words however they are written, and nothing else."""

import os
from pathlib import Path

import pytest

from app.content.deny_list import DenyListInvalid, read

RULES = """
[[rule]]
name = "weapons"
words = ["pipe bomb", "ghost-gun"]
[[rule]]
name = "people"
patterns = ["photo of (the )?president"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    return file


@pytest.mark.parametrize(
    "prompt",
    [
        "a pipe bomb",
        "PIPE  BOMB, on a table",
        "(pipe bomb:1.3)",
        "a (pipe) [bomb]",
        "pipe-bomb",
        "pipe_bomb",
        "p\u00eepe b\u00f6mb",
        "ｐｉｐｅ ｂｏｍｂ",
        "pi\u200bpe bo\u00admb",
        "ghost gun",
    ],
)
def test_a_word_is_found_however_it_is_written(path: Path, prompt: str) -> None:
    assert read(path).refusal(prompt) == "weapons"


@pytest.mark.parametrize("prompt", ["", "a bagpipe bombarded", "pipe, table, bomb", "pipe bombs"])
def test_other_words_are_not(path: Path, prompt: str) -> None:
    assert read(path).refusal(prompt) is None


def test_patterns_are_looked_for_in_the_folded_prompt(path: Path) -> None:
    assert read(path).refusal("A PHOTO of the Président, smiling") == "people"
    assert read(path).refusal("a photo of a resident") is None


def test_a_changed_file_is_read_again(path: Path) -> None:
    assert read(path).refusal("a red apple") is None
    path.write_text('[[rule]]\nname = "fruit"\nwords = ["apple"]\n')
    os.utime(path, ns=(1, 1))
    assert read(path).refusal("a red apple") == "fruit"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[rule]", "rules.toml"),
        ('[[rule]]\nname = "x"\npatterns = ["("]', "unterminated"),
        ('[[rule]]\nname = "x"\nwords = ["..."]', "no letter or digit"),
        ('[[rules]]\nname = "x"', "rules"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(path: Path, text: str, words: str) -> None:
    path.write_text(text)
    with pytest.raises(DenyListInvalid, match=words):
        read(path)
    with pytest.raises(DenyListInvalid, match="No such file"):
        read(path.parent / "none.toml")
