"""What `docker build .` would send: the files of a folder that .dockerignore lets through."""

import re
import shutil
from pathlib import Path

Rules = list[tuple[re.Pattern[str], bool]]


def read_rules(text: str) -> Rules:
    """The lines of a .dockerignore, each with whether it lets through (`!`)."""
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith("#")]
    return [(_pattern(line.removeprefix("!").strip("/")), line.startswith("!")) for line in told]


def let_through(rules: Rules, path: str) -> bool:
    """Whether the last rule that fits a path, or a folder that it is in, lets it through."""
    parts = path.split("/")
    places = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    verdicts = [
        allowed for pattern, allowed in rules if any(pattern.fullmatch(place) for place in places)
    ]
    return verdicts[-1] if verdicts else True


def copy(folder: Path, rules: Rules | None, sources: list[str], target: Path) -> int:
    """Copy as COPY does; how many files that was.

    Args:
        rules: what is let through; None lets everything through.
        target: a folder, made if it is missing, unless one file is copied to the name of a file.

    Raises:
        FileNotFoundError: a source has no file that is let through.
    """
    copied = 0
    for source in sources:
        before, place = copied, folder / source.strip("/")
        if place.is_file() and (rules is None or let_through(rules, source)):
            _copy_file(place, target / place.name if target.is_dir() else target)
            copied += 1
        for path in sorted(place.rglob("*")) if place.is_dir() else ():
            told = str(path.relative_to(folder))
            if rules is not None and not let_through(rules, told):
                continue
            inside = target / path.relative_to(place)
            if path.is_symlink() or path.is_file():
                _copy_file(path, inside)
                copied += 1
            else:
                inside.mkdir(parents=True, exist_ok=True)
        if copied == before:
            raise FileNotFoundError(f"{source}: there is no such file, or .dockerignore holds it")
    return copied


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)


def _pattern(line: str) -> re.Pattern[str]:
    """A .dockerignore pattern: `**` is any folders, `*` and `?` stay within one."""
    out, rest = "", line
    while rest:
        if rest.startswith("**/"):
            out, rest = out + "(?:.*/)?", rest[3:]
        elif rest.startswith("**"):
            out, rest = out + ".*", rest[2:]
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(rest[0], re.escape(rest[0]))
            rest = rest[1:]
    return re.compile(out)
