"""Refuses requests that hold what JSON or the database cannot, before any route reads them.

Python's own reader takes `NaN`, half a surrogate pair and NUL, which Postgres does not; each
would end as an error of ours, somewhere further in.
"""

import json
import re
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import FieldProblem, Invalid, NotFound
from app.web.problems import from_domain

# Only a body with one of these is read once more to be sure: a picture in a body is long.
_SUSPECT = re.compile(rb"NaN|Infinity|\\u0000|\\u[dD][89a-fA-F]")
_JSON = re.compile(r"application/([\w.+-]+\+)?json\s*(;|$)", re.IGNORECASE)


class PlainRequests:
    """404 for a path, and 422 for a query or JSON body, with what nothing here can be named by."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if "\0" in scope["path"]:
            await _refuse(NotFound("No address has a NUL character"), scope, receive, send)
        elif b"%00" in scope["query_string"]:
            await _refuse(_invalid("The query has a NUL character"), scope, receive, send)
        elif _JSON.match(Headers(scope=scope).get("content-type", "")):
            await self._with_body(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Whole, as every route with a JSON body will have it; BodyLimit stands before this.
        parts: list[bytes] = []
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                # The client has left; nobody waits for an answer.
                return
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(parts)
        if (wrong := _what_is_wrong(body)) is not None:
            await _refuse(_invalid(wrong), scope, receive, send)
            return
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)


def _what_is_wrong(body: bytes) -> str | None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"The body is not UTF-8: byte {error.start}"
    if not _SUSPECT.search(body):
        return None
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except json.JSONDecodeError:
        # The route says where.
        return None
    except ValueError as error:
        return str(error)
    except RecursionError:
        return "The body's JSON is nested too deeply"
    return _wrong_text(found)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"The body has {name}, which is no JSON")


def _wrong_text(found: Any) -> str | None:
    """What stands in a text anywhere in parsed JSON, keys included."""
    left = [found]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str):
            if "\0" in value:
                return "A text in the body has a NUL character"
            if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
                return "A text in the body has half of a surrogate pair"
    return None


def _invalid(detail: str) -> Invalid:
    return Invalid(detail, [FieldProblem("", detail)])


async def _refuse(error: Invalid | NotFound, scope: Scope, receive: Receive, send: Send) -> None:
    await from_domain(Request(scope), error)(scope, receive, send)
