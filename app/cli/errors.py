"""What ends a command with one clear message instead of a traceback."""


class CommandError(Exception):
    """A failure that a person can mend; its text says how."""
