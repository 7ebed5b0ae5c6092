"""The embedded stack's front door: what commands and tests use of `app.cli.stack`."""

from app.cli.stack.errors import StackError
from app.cli.stack.servers import EmbeddedServers
from app.cli.stack.supervisor import EmbeddedStack, StackOptions, default_models

__all__ = ["EmbeddedServers", "EmbeddedStack", "StackError", "StackOptions", "default_models"]
