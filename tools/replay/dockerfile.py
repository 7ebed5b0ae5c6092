"""A Dockerfile taken apart: its stages, their instructions, and what variables make of them."""

import json
import re
import shlex
from dataclasses import dataclass, field

KNOWN = {"ARG", "CMD", "COPY", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "USER"}
KNOWN |= {"WORKDIR"}
VARIABLE = re.compile(r"\\\$|\$(\w+)|\$\{(\w+)(?::-([^}]*))?\}")


class DockerfileError(Exception):
    """Something that cannot be replayed, with its line."""


@dataclass(frozen=True)
class Instruction:
    """One step: `COPY --from=build a b` is COPY, {"from": "build"}, "a b"."""

    line: int
    word: str
    flags: dict[str, str]
    rest: str

    def __str__(self) -> str:
        flags = "".join(f"--{name}={value} " for name, value in self.flags.items())
        return f"{self.word} {flags}{self.rest}"


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    base: str
    name: str | None
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True)
class Dockerfile:
    """All stages, and the ARGs before the first."""

    arguments: dict[str, str]
    stages: tuple[Stage, ...] = field(default=())

    def find(self, name: str) -> Stage | None:
        """The stage of that name."""
        return next((stage for stage in self.stages if stage.name == name), None)


def parse(text: str, given: dict[str, str]) -> Dockerfile:
    """Take a Dockerfile apart.

    Args:
        given: build arguments, which win over the defaults of ARG.

    Raises:
        DockerfileError: a line is of a kind that is not known here.
    """
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for step in _instructions(text):
        if step.word == "FROM":
            words = expand(step.rest, arguments).split()
            if len(words) not in (1, 3):
                raise DockerfileError(f"line {step.line}: FROM {step.rest} is not understood")
            stages.append(Stage(words[0], words[2] if len(words) == 3 else None, ()))
        elif stages:
            last = stages[-1]
            stages[-1] = Stage(last.base, last.name, (*last.instructions, step))
        elif step.word == "ARG":
            name, _, default = step.rest.partition("=")
            arguments[name] = given.get(name, expand(default, arguments))
        else:
            raise DockerfileError(f"line {step.line}: {step.word} before FROM")
    if not stages:
        raise DockerfileError("there is no FROM")
    return Dockerfile(arguments, tuple(stages))


def expand(text: str, variables: dict[str, str]) -> str:
    """Put values in the place of $NAME, ${NAME} and ${NAME:-otherwise}."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "\\$":
            return "$"
        return variables.get(match[1] or match[2], "") or match[3] or ""

    return VARIABLE.sub(value, text)


def pairs(step: Instruction, variables: dict[str, str]) -> dict[str, str]:
    """What `ENV a=1 b="2 3"` sets."""
    words = shlex.split(expand(step.rest, variables))
    if not all("=" in word for word in words):
        raise DockerfileError(f"line {step.line}: {step.word} takes NAME=value")
    return dict(word.split("=", 1) for word in words)


def command(text: str) -> list[str]:
    """The words of RUN, CMD and the like: a JSON list, or a line for the shell."""
    if text.startswith("["):
        return [str(word) for word in json.loads(text)]
    return ["/bin/sh", "-c", text]


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    pending, began = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        # Comments and empty lines may stand within an instruction, and end none.
        if line.lstrip().startswith("#") or not line.strip():
            continue
        began = began if pending else number
        if line.rstrip().endswith("\\"):
            pending += line.strip()[:-1].strip() + " "
            continue
        found.append(_instruction(began, pending + line.strip()))
        pending = ""
    if pending:
        raise DockerfileError(f"line {began}: the file ends within {pending.split()[0]}")
    return found


def _instruction(line: int, text: str) -> Instruction:
    word, _, rest = text.partition(" ")
    word, rest, flags = word.upper(), rest.strip(), {}
    if word not in KNOWN:
        raise DockerfileError(f"line {line}: {word} is not known here")
    if word == "RUN" and "<<" in rest:
        raise DockerfileError(f"line {line}: RUN with a here-document is not known here")
    while rest.startswith("--"):
        flag, _, rest = rest.partition(" ")
        name, _, value = flag[2:].partition("=")
        flags[name], rest = value, rest.strip()
    allowed = {"COPY": {"from"}, "HEALTHCHECK": {"interval", "timeout", "start-period", "retries"}}
    if unknown := set(flags) - allowed.get(word, set()):
        raise DockerfileError(f"line {line}: {word} --{min(unknown)} is not known here")
    return Instruction(line, word, flags, rest)
