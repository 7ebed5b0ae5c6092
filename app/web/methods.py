"""HEAD and OPTIONS of every documented path, and an `Allow` that names all of its methods.

FastAPI has one route for each method of a path, and answers a method that there is none for with
the `Allow` of the first route alone.
"""

import re
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Streams that go on for hours have no head to give early.
ENDLESS = "/events"


class Methods:
    """Answers OPTIONS, turns HEAD into GET without its body, and completes `Allow`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._paths: list[tuple[re.Pattern[str], frozenset[str]]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = self._allowed(scope) if scope["type"] == "http" else frozenset()
        if not allowed:
            await self.app(scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=_allow(allowed))(scope, receive, send)
        elif scope["method"] == "HEAD" and "HEAD" in allowed:
            as_get = {**scope, "method": "GET"}
            await self.app(as_get, receive, _without_body(send))
            # For those outside, who tell of requests by their route.
            scope["route"] = as_get.get("route")
        else:
            await self.app(scope, receive, _with_allow(send, allowed))

    def _allowed(self, scope: Scope) -> frozenset[str]:
        if self._paths is None:
            self._paths = _methods_of_paths(scope["app"].openapi())
        return next(
            (methods for pattern, methods in self._paths if pattern.match(scope["path"])),
            frozenset(),
        )


def _methods_of_paths(document: Mapping[str, Any]) -> list[tuple[re.Pattern[str], frozenset[str]]]:
    paths = []
    # `/v1/loras/inspect` looks like a LoRA's path too: those without a parameter come first.
    for path, operations in sorted(document["paths"].items(), key=lambda item: "{" in item[0]):
        methods = {method.upper() for method in operations} | {"OPTIONS"}
        if "GET" in methods and not path.endswith(ENDLESS):
            methods.add("HEAD")
        paths.append((compile_path(path)[0], frozenset(methods)))
    return paths


def _allow(methods: frozenset[str]) -> dict[str, str]:
    return {"Allow": ", ".join(sorted(methods))}


def _with_allow(send: Send, methods: frozenset[str]) -> Send:
    async def completed(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 405:
            MutableHeaders(scope=message).update(_allow(methods))
        await send(message)

    return completed


def _without_body(send: Send) -> Send:
    async def head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return head
