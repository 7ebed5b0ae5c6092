"""Text that people type: trimmed, and free of what Postgres and terminals cannot hold."""

import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, StringConstraints


def _plain(value: str) -> str:
    if any(ord(character) < 32 and character not in "\n\t" for character in value):
        raise ValueError("must not contain control characters")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise ValueError("must not contain lone surrogates")
    return value


# Trimmed first, so that limits on its length count what is kept.
PlainText = Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(_plain)]


def _day(value: object) -> object:
    # A number would be taken for seconds since 1970.
    if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        raise ValueError("must be a day, such as 2026-01-31")
    return value


Day = Annotated[date, BeforeValidator(_day)]
