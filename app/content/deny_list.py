"""An operator's deny-list: words and patterns that no prompt may have."""

import re
import tomllib
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator


class DenyListInvalid(ValueError):
    """The file cannot be used; the text says where."""


class Rule(BaseModel):
    """What a refusal is called, and what is refused under that name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=100)
    # Whole words, or several after one another.
    words: tuple[str, ...] = ()
    # Regular expressions, looked for in the prompt as it was folded.
    patterns: tuple[str, ...] = ()

    @field_validator("words")
    @classmethod
    def _has_letters(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not plain_words(word):
                raise ValueError(f"{word!r} has no letter or digit")
        return words

    @field_validator("patterns")
    @classmethod
    def _compiles(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r}: {error}") from error
        return patterns


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rule: list[Rule] = []


class DenyList:
    """Looks for every rule in a prompt."""

    def __init__(self, rules: list[Rule]) -> None:
        self._words: Mapping[str, re.Pattern[str]] = {
            rule.name: re.compile("|".join(map(_whole, rule.words))) for rule in rules if rule.words
        }
        self._patterns = [
            (rule.name, re.compile(pattern)) for rule in rules for pattern in rule.patterns
        ]

    def refusal(self, prompt: str) -> str | None:
        """The name of the first rule that a prompt breaks."""
        words = f" {plain_words(prompt)} "
        for name, pattern in self._words.items():
            if pattern.search(words):
                return name
        folded = fold(prompt)
        return next((name for name, pattern in self._patterns if pattern.search(folded)), None)


def fold(text: str) -> str:
    """Text as it reads: compatible forms made one (NFKC), no invisible characters, lower case.

    Accents go too, so that a word cannot be hidden behind them.
    """
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text))
    # Cf: zero-width and directional marks. Mn: combining accents.
    visible = (one for one in decomposed if unicodedata.category(one) not in ("Cf", "Mn"))
    return "".join(visible).casefold()


def plain_words(text: str) -> str:
    """The words of a text with one space between: weights and punctuation do not hide any."""
    return " ".join(re.findall(r"[^\W_]+", fold(text)))


def read(path: Path) -> DenyList:
    """The deny-list of a TOML file, read again when the file has changed.

    Raises:
        DenyListInvalid: there is no such file, or it is none of ours.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DenyListInvalid(f"{path}: {error.strerror}") from error
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int, _bytes: int) -> DenyList:
    try:
        return DenyList(_File.model_validate(tomllib.loads(path.read_text("utf-8"))).rule)
    except (OSError, ValueError, ValidationError) as error:
        raise DenyListInvalid(f"{path}: {error}") from error


def _whole(word: str) -> str:
    return f" {re.escape(plain_words(word))} "
