"""A reader of one page: gives its commands one after another, in a folder and a shell of their own.

What a person would fill in is filled in here, and nothing else: `Stage.stands_for`, and ids.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from app.settings import REPOSITORY
from tests.docs.checks import SHELL, shell_of
from tests.docs.pages import Block

# A block may train; a machine may be busy with much else.
BLOCK_SECONDS = 900.0
STOP_SECONDS = 5.0
# Copied, not linked, so that no command of a page writes into the repository.
COPIED = ("examples",)
# What a reader has not, or what is not of the source.
LEFT_OUT = frozenset({".git", ".venv", ".lorawright", "demo", "build", ".ci"})
ID = re.compile(r"\b([a-z]{2,7})_[0-9a-f]{32}\b")
SECRET = re.compile(r"\b(whsec)_[A-Za-z0-9+/=]{20,}")
BLANK = re.compile(r"\b([a-z]{2,7})_…")
# A shell looks for an id when the command is given, as the command before may print it.
LAST_ID = """\
last_id() {{
  local found
  if found=$(grep -oE "\\b$1_([0-9a-f]{{32}}|[A-Za-z0-9+/=]{{40,}})" {output} | tail -n 1); then
    echo "$found"
  else
    echo "$1_… was never printed" >&2
    kill $$
  fi
}}"""
PYTHON_SESSION = Path(__file__).parent / "python_session.py"
# curl as readers have it, but an answer that is an error ends the block.
CURL = """\
#!/bin/sh
exec {curl} --silent --show-error --fail-with-body "$@"
"""


class BlockFailed(AssertionError):
    """A block of a page did not do what the page says: where, and what was printed."""

    def __init__(self, block: Block, line: int, output: str) -> None:
        place = f"{block.place.rpartition(':')[0]}:{line}"
        super().__init__(f"{place}\n\n{block.text.rstrip()}\n\nprinted:\n{output.rstrip()}")


@dataclass(frozen=True)
class Stage:
    """What a page is read over: the environment, and words of the pages that stand for others."""

    environment: Mapping[str, str]
    stands_for: Mapping[str, str]
    # Shell commands that every page may build on.
    opening: str = ""


class Reader:
    """One page's folder, shell and Python. Use it in a `with` block; `run` each block in turn."""

    def __init__(self, folder: Path, stage: Stage) -> None:
        """Lay out `folder` as a copy of the repository; nothing is started yet."""
        self.folder = folder
        self._stage = stage
        self._shell: subprocess.Popen[bytes] | None = None
        self._python: subprocess.Popen[bytes] | None = None
        self._blocks = 0
        self._scratch = folder / ".blocks"
        self._output = self._scratch / "output"
        for entry in REPOSITORY.iterdir():
            if entry.name in COPIED:
                shutil.copytree(entry, folder / entry.name)
            elif entry.name not in LEFT_OUT and not entry.name.endswith("_cache"):
                (folder / entry.name).symlink_to(entry)
        (folder / ".venv").symlink_to(sys.prefix)
        self._scratch.mkdir()
        self._output.touch()

    def __enter__(self) -> Self:
        read_end, write_end = os.pipe()
        self._status = os.fdopen(read_end, "rb", buffering=0)
        with self._output.open("ab") as output:
            self._shell = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(write_end,),
                start_new_session=True,
            )
        os.close(write_end)
        self._tell(
            "set -eEuo pipefail",
            f"trap 'echo \"$LINENO\" >&{write_end}' ERR",
            LAST_ID.format(output=self._output, status=write_end),
            f"finished() {{ env -0 >{self._scratch}/environment; echo 0 >&{write_end}; }}",
        )
        try:
            self.run(Block(REPOSITORY / "README.md", 1, "sh", self._stage.opening, {}))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the shell and the Python, and all that was left in the background."""
        self._end()

    def _end(self) -> None:
        for process in (self._python, self._shell):
            if process is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._status.close()

    def output(self) -> str:
        """What was printed up to now."""
        return self._output.read_text(errors="replace")

    def run(self, block: Block) -> None:
        """Do what the block says.

        Raises:
            BlockFailed: a command ended with an error, or took too long; or the block is said to
                be refused, and was not.
        """
        if block.not_run:
            return
        self._blocks += 1
        name = block.marks.get("file")
        if name is not None:
            self._save(name, block)
        elif block.language in (*SHELL, "console", "python"):
            before = len(self.output())
            failed_at = self._give(block)
            self._judge(block, failed_at, self.output()[before:])

    def _save(self, name: str, block: Block) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self._filled_in(block, block.text, strict=False))

    def _judge(self, block: Block, failed_at: int | None, printed: str) -> None:
        refused = block.marks.get("refused")
        if refused is not None:
            if failed_at is None:
                raise BlockFailed(block, block.line, f"{printed}\nIt should be refused: {refused}")
            if refused not in printed:
                raise BlockFailed(block, failed_at, f"{printed}\nIt should say {refused}")
        elif failed_at is not None:
            raise BlockFailed(block, failed_at, printed)

    def _give(self, block: Block) -> int | None:
        """Run it; the line of the page at which it failed, or None."""
        # As many empty lines before it as on the page, so that line numbers are the page's.
        padding = "\n" * (block.line - 1)
        if block.language == "python":
            return self._give_python(block, padding + self._filled_in(block, block.text))
        script = self._scratch / f"block-{self._blocks}.sh"
        script.write_text(padding + _asking(self._with_meanings(shell_of(block))) + "\n")
        if "refused" in block.marks:
            # The page goes on after it, so it fails in a shell of its own.
            self._tell("set +e", f"( set -e; source {script} ) </dev/null", "set -e", "finished")
        else:
            self._tell(f"source {script} </dev/null", "finished")
        return self._wait(block)

    def _give_python(self, block: Block, text: str) -> int | None:
        script = self._scratch / f"block-{self._blocks}.py"
        script.write_text(text)
        self._tell("finished")
        self._wait(block)
        pairs = (self._scratch / "environment").read_bytes().decode().rstrip("\0").split("\0")
        environment = dict(pair.partition("=")[::2] for pair in pairs)
        if self._python is None:
            self._python = subprocess.Popen(
                [sys.executable, "-u", str(PYTHON_SESSION)],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        order = {
            "script": str(script),
            "page": block.place.rpartition(":")[0],
            "output": str(self._output),
            "environment": environment,
        }
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        self._python.stdin.write(json.dumps(order).encode() + b"\n")
        self._python.stdin.flush()
        if not select.select([self._python.stdout], [], [], BLOCK_SECONDS)[0]:
            raise BlockFailed(block, block.line, f"{self.output()}\nIt took {BLOCK_SECONDS:.0f} s")
        failed_at = int(self._python.stdout.readline() or block.line)
        return failed_at or None

    def _tell(self, *lines: str) -> None:
        assert self._shell is not None
        assert self._shell.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._shell.stdin.write("".join(f"{line}\n" for line in lines).encode())
            self._shell.stdin.flush()

    def _wait(self, block: Block) -> int | None:
        """Until the shell has finished or ended; the line at which it failed, or None."""
        ends = time.monotonic() + BLOCK_SECONDS
        said = b""
        while True:
            left = ends - time.monotonic()
            if left <= 0 or not select.select([self._status], [], [], left)[0]:
                printed = f"{self.output()}\nIt took over {BLOCK_SECONDS:.0f} s"
                raise BlockFailed(block, block.line, printed)
            part = self._status.read(4096)
            said += part
            numbers = said.split()
            if numbers and numbers[-1] == b"0" and said.endswith(b"\n"):
                return int(numbers[0]) or None
            if not part:
                return int(numbers[0]) if numbers else block.line

    def _environment(self) -> dict[str, str]:
        programs = self._scratch / "bin"
        programs.mkdir(exist_ok=True)
        curl = shutil.which("curl")
        if curl is None:
            raise RuntimeError("The docs speak to the API with curl, which is not installed here")
        (programs / "curl").write_text(CURL.format(curl=curl))
        (programs / "curl").chmod(0o755)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LORAWRIGHT_", "PYTEST_"))
        }
        path = f"{programs}:{Path(sys.executable).parent}:{kept.get('PATH', os.defpath)}"
        own = {"PATH": path, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
        return kept | own | dict(self._stage.environment)

    def _with_meanings(self, text: str) -> str:
        for word, meaning in self._stage.stands_for.items():
            text = text.replace(word, meaning)
        return text

    def _filled_in(self, block: Block, text: str, *, strict: bool = True) -> str:
        """The text with what a person would put in their own: addresses, the key, ids seen before.

        `ds_…` becomes the id of that kind which the page printed last; where there is none, a file
        keeps the word, and all else fails.
        """
        text = self._with_meanings(text)
        seen = {
            found[1]: found[0]
            for pattern in (ID, SECRET)
            for found in pattern.finditer(self.output())
        }

        def last(blank: re.Match[str]) -> str:
            if blank[1] in seen:
                return seen[blank[1]]
            if not strict:
                return blank[0]
            printed = ", ".join(sorted(seen)) or "nothing"
            raise BlockFailed(block, block.line, f"{blank[0]} was never printed; {printed} was")

        return BLANK.sub(last, text)


def _asking(script: str) -> str:
    """A shell script that looks for the id where `ds_…` stands, within single quotes too."""
    parts: list[str] = []
    quote, end = "", 0
    for blank in BLANK.finditer(script):
        before = script[end : blank.start()]
        quote = _quote_after(before, quote)
        asked = f"$(last_id {blank[1]})"
        parts += [before, f"'\"{asked}\"'" if quote == "'" else asked]
        end = blank.end()
    return "".join([*parts, script[end:]])


def _quote_after(text: str, quote: str) -> str:
    """The quote that is open after `text`, if `quote` was before it."""
    comment = False
    for n, character in enumerate(text):
        if comment:
            comment = character != "\n"
        elif quote:
            quote = "" if character == quote and text[n - 1 : n] != "\\" else quote
        elif character == "#" and (n == 0 or text[n - 1].isspace()):
            comment = True
        elif character in "'\"":
            quote = character
    return quote
