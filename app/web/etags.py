"""ETags: what has not changed is not sent again, and what has is not overwritten unseen.

A tag is of what an object is, not of the bytes that tell it: the addresses of its files are signed
anew for every answer. So the tags are weak, and the signatures are left out of them.
"""

import hashlib
import json
import re
from typing import Annotated

from fastapi import Header
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import PreconditionFailed

# A presigned address: a JSON string that is a URL with a signature.
_SIGNED = re.compile(rb'"(https?://[^"?]*)\?[^"]*X-Amz-Signature=[^"]*"')

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="Change it only if its ETag is still this one"),
]


def etag_of(body: bytes) -> str:
    """The weak tag of an answer in JSON, whatever order its fields came in."""
    plain = _SIGNED.sub(rb'"\1"', json.dumps(json.loads(body), sort_keys=True).encode())
    return f'W/"{hashlib.sha256(plain).hexdigest()[:32]}"'


def check_match(told: str | None, current: BaseModel) -> None:
    """Refuse a change of an object that is no longer as its client knows it.

    Args:
        current: the object as it is read, its row locked.

    Raises:
        PreconditionFailed: none of the tags told is the object's.
    """
    if told is None or told.strip() == "*":
        return
    now = etag_of(current.model_dump_json().encode())
    if not _names(told, now):
        raise PreconditionFailed(
            f"If-Match is {told[:100]}, but the object's ETag is {now}: it was changed since"
        )


def _names(told: str, tag: str) -> bool:
    """Whether a list of tags has this one, by weak comparison (RFC 9110, 8.8.3.2)."""
    opaque = tag.removeprefix("W/")
    return any(each.strip().removeprefix("W/") == opaque for each in told.split(","))


class ETags:
    """Gives every object and list in JSON its tag; 304 where the client has it already."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] not in ("GET", "PATCH")
            or not scope["path"].startswith("/v1/")
        ):
            await self.app(scope, receive, send)
            return
        held: Message | None = None
        body = b""

        async def tagged(message: Message) -> None:
            nonlocal held, body
            if message["type"] == "http.response.start" and _is_json(message):
                held = message
            elif held is None:
                await send(message)
            elif message["type"] == "http.response.body":
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await _answer(scope, send, held, body)

        await self.app(scope, receive, tagged)


def _is_json(start: Message) -> bool:
    kind = Headers(scope=start).get("content-type", "")
    return start["status"] == 200 and kind.startswith("application/json")


async def _answer(scope: Scope, send: Send, start: Message, body: bytes) -> None:
    tag = etag_of(body)
    headers = MutableHeaders(scope=start)
    headers["ETag"] = tag
    headers["Cache-Control"] = "private, no-cache"
    known = Headers(scope=scope).get("if-none-match")
    if scope["method"] == "GET" and known and (known.strip() == "*" or _names(known, tag)):
        del headers["content-length"]
        del headers["content-type"]
        start = {**start, "status": 304}
        body = b""
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
