"""What happens around every request: its id, its log line, and the limit on its body.

Written against ASGI itself: Starlette's BaseHTTPMiddleware would buffer event streams.
"""

import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import TooLarge
from app.isolation import unknown_caller
from app.metrics.api import Answering
from app.settings import Settings
from app.web.problems import from_domain

log = structlog.get_logger("lorawright.api")
MAX_REQUEST_ID_CHARS = 100
# Their JSON may carry pictures.
PICTURE_PATHS = frozenset({"/v1/generations", "/v1/comparisons"})
LORA_PATHS = frozenset({"/v1/loras", "/v1/loras/inspect"})
# What a form may have around its one LoRA file, which has a limit of its own.
LORA_FORM_BYTES = 64 * 1024


class RequestContext:
    """Gives each request an id (the client's, when it sent a plain one) and logs its end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _clean_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.monotonic()
        status = 500
        answered_after: float | None = None
        answering = Answering(scope)

        async def send_with_id(message: Message) -> None:
            nonlocal status, answered_after
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if "preference-applied" not in headers:
                    answered_after = time.monotonic() - started
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id), unknown_caller():
            try:
                await self.app(scope, receive, send_with_id)
            finally:
                answering.ended(status, answered_after)
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round((time.monotonic() - started) * 1000, 1),
                )
                # The caller, once its key was known.
                structlog.contextvars.unbind_contextvars("account_id")


class BodyLimit:
    """Answers 413 before an oversized body is read whole, whether or not it told its length."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        multipart = headers.get("content-type", "").startswith("multipart/form-data")
        setting = _limiting_setting(scope["path"], multipart)
        name = f"LORAWRIGHT_{setting.upper()}"
        limit: int = getattr(self._settings, setting)
        around = LORA_FORM_BYTES if setting == "max_lora_bytes" else 0
        told = headers.get("content-length", "0")
        if told.isdigit() and int(told) > limit + around:
            await self._refuse(scope, send, name, limit, int(told))
            return
        seen = 0
        started = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit + around:
                    raise _BodyTooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except _BodyTooLarge:
            if not started:
                await self._refuse(scope, send, name, limit, seen)

    async def _refuse(self, scope: Scope, send: Send, name: str, limit: int, seen: int) -> None:
        error = TooLarge(f"The body has {seen} bytes or more; the limit ({name}) is {limit}")

        async def nothing() -> Message:
            return {"type": "http.disconnect"}

        response = from_domain(Request(scope), error)
        response.headers["Connection"] = "close"
        await response(scope, nothing, send)


# A BaseException, so that no handler on the way takes it for an error of its own.
class _BodyTooLarge(BaseException):
    pass


def _limiting_setting(path: str, multipart: bool) -> str:
    """The setting whose limit a body has."""
    if multipart:
        return "max_lora_bytes" if path in LORA_PATHS else "max_upload_bytes"
    return "max_picture_body_bytes" if path in PICTURE_PATHS else "max_json_body_bytes"


def _clean_id(told: str | None) -> str:
    if told and len(told) <= MAX_REQUEST_ID_CHARS and told.isascii() and told.isprintable():
        return told
    return uuid.uuid4().hex
