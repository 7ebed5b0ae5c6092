"""What a check says: how bad, what it saw, and what an operator can do."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]
# Of findings that may be millions, such as missing objects, so many are told one by one.
MOST_OF_A_KIND = 100


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at, such as `postgres` or `objects.missing`.
        level: `problem`: something does not work, or is lost. `warning`: it works, and should be
            otherwise.
        todo: what helps; None where nothing is to be done.
        object_key: the object it is about, if it is about one.
    """

    check: str
    level: Level
    text: str
    todo: str | None = None
    object_key: str | None = None


def ok(check: str, text: str) -> Finding:
    """It is as it should be."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, todo: str) -> Finding:
    """It works, and should be otherwise."""
    return Finding(check, "warning", text, todo)


def problem(check: str, text: str, todo: str, object_key: str | None = None) -> Finding:
    """Something does not work, or is lost."""
    return Finding(check, "problem", text, todo, object_key)


def at_most(findings: Iterable[Finding], most: int = MOST_OF_A_KIND) -> Iterator[Finding]:
    """The findings, of each check no more than `most`, and how many more there were."""
    seen: Counter[str] = Counter()
    last: dict[str, Finding] = {}
    for finding in findings:
        seen[finding.check] += 1
        if seen[finding.check] <= most:
            yield finding
        last[finding.check] = finding
    for check, count in seen.items():
        if count > most:
            text = f"{count - most} more like these; {count} in all"
            yield Finding(check, last[check].level, text, last[check].todo)
