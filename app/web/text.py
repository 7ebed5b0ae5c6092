"""Text that people type: trimmed, and free of what Postgres and terminals cannot hold."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints


def _plain(value: str) -> str:
    if any(ord(character) < 32 and character not in "\n\t" for character in value):
        raise ValueError("must not contain control characters")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise ValueError("must not contain lone surrogates")
    return value


# Trimmed first, so that limits on its length count what is kept.
PlainText = Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(_plain)]
