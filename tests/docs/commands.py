"""The commands in a piece of shell, as words: enough of its grammar to look at, not to run."""

import re
import shlex
from collections.abc import Iterator

HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1([^\n]*)\n.*?^\s*\2$", re.S | re.M)
ENDS = frozenset(";|&()\n")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=.*", re.S)
# Words that may stand before a command.
BEFORE = frozenset({"if", "then", "else", "elif", "while", "until", "do", "!", "{", "time", "exec"})


def commands_in(script: str) -> list[list[str]]:
    """Every simple command, also of `$(…)`, without assignments, redirections and comments."""
    return list(_commands(HEREDOC.sub(r"\3", script.replace("\\\n", " "))))


def _commands(script: str) -> Iterator[list[str]]:
    for inner in _substitutions(script):
        yield from _commands(inner)
    lexer = shlex.shlex(_without_comments(script), posix=True, punctuation_chars=";|&()\n")
    lexer.whitespace = " \t\r"
    lexer.commenters = ""
    # Or every sign that is no letter would be a word of its own.
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= ENDS:
            yield from _command(words)
            words = []
        else:
            words.append(word)
    yield from _command(words)


def _command(words: list[str]) -> Iterator[list[str]]:
    while words and (words[0] in BEFORE or ASSIGNMENT.fullmatch(words[0])):
        words = words[1:]
    if words:
        yield words


def _substitutions(script: str) -> Iterator[str]:
    """What stands between `$(` and its `)`, however deep."""
    for start in (found.end() for found in re.finditer(r"\$\((?!\()", script)):
        depth = 1
        for place in range(start, len(script)):
            depth += {"(": 1, ")": -1}.get(script[place], 0)
            if depth == 0:
                yield script[start:place]
                break


def _without_comments(script: str) -> str:
    """The script without what follows a `#` that begins a word outside of quotes."""
    kept, quote, before = [], "", "\n"
    characters = iter(script)
    for character in characters:
        if quote:
            quote = "" if character == quote and before != "\\" else quote
        elif character in "'\"" and before != "\\":
            quote = character
        elif character == "#" and before.isspace():
            for rest in characters:
                if rest == "\n":
                    break
            character = "\n"
        kept.append(character)
        before = character
    return "".join(kept)
