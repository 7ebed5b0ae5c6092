"""What can go wrong with the embedded stack, in words that say what to do."""

from pathlib import Path

from app.cli.errors import CommandError


class StackError(CommandError):
    """Root: the stack cannot start or go on. Its text is for a person."""


class AlreadyRunning(StackError):
    """Another supervisor holds the folder."""


class PortTaken(StackError):
    """Somebody else listens where one of our servers must."""


class ServerMissing(StackError):
    """The wheel that carries a server is not installed."""


class ChildFailed(StackError):
    """A child ended, or did not become ready."""

    def __init__(self, name: str, what: str, log_path: Path, tail: str) -> None:
        lines = [f"{name} {what}; its log is {log_path}"]
        if tail:
            lines += ["the last lines:", *(f"  {line}" for line in tail.splitlines())]
        super().__init__("\n".join(lines))
        self.name = name


class StopAsked(StackError):
    """Not a failure: the stack was told to stop while it was starting."""
