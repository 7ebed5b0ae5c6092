"""`Prefer: wait=N` (RFC 7240) on the POST of a job: answer when it has ended, or after N seconds.

The request has been answered and committed when the wait begins, so neither a thread nor a
connection is held; the job is then read again as any client would read it.
"""

import json
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import FieldProblem, Invalid
from app.jobs.paths import PATHS
from app.jobs.wait import wait_until_ended
from app.web.problems import from_domain

MAX_SECONDS = 60
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([^\s,;\"]*)\"?", re.IGNORECASE)


class PreferWait:
    """Holds a job's first answer back while its client would rather wait."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = None
        if scope["type"] == "http" and scope["method"] == "POST":
            told = _WAIT.search(Headers(scope=scope).get("prefer", ""))
        if told is None:
            await self.app(scope, receive, send)
            return
        try:
            seconds = _seconds(told[1])
        except Invalid as error:
            await from_domain(Request(scope), error)(scope, receive, send)
            return
        answer = _Answer()
        await self.app(scope, receive, answer.take)
        job = answer.job()
        if job is not None:
            await wait_until_ended(job["id"], seconds, Request(scope, receive).is_disconnected)
            await self._read_again(scope, answer, f"{PATHS[job['object']]}/{job['id']}")
            MutableHeaders(scope=answer.start)["Preference-Applied"] = f"wait={seconds}"
        await answer.give(send)

    async def _read_again(self, scope: Scope, answer: "_Answer", path: str) -> None:
        """Put the job as it is now in place of what it was at first."""
        get = {
            **scope,
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [pair for pair in scope["headers"] if pair[0] == b"authorization"],
            # What the POST has left there is its own.
            "state": {"request_id": scope["state"]["request_id"]},
        }
        again = _Answer()

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        await self.app(get, nothing, again.take)
        # The answer to the POST stands where the job cannot be read, whatever the reason.
        if again.start["status"] == 200:
            answer.body = again.body
            MutableHeaders(scope=answer.start)["Content-Length"] = str(len(again.body))


class _Answer:
    """An answer that has not been sent yet."""

    def __init__(self) -> None:
        self.start: Message = {}
        self.body = b""

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    async def give(self, send: Send) -> None:
        await send(self.start)
        await send({"type": "http.response.body", "body": self.body, "more_body": False})

    def job(self) -> dict[str, str] | None:
        """What the answer tells of, if that is a job."""
        if self.start["status"] not in (200, 201):
            return None
        if not Headers(scope=self.start).get("content-type", "").startswith("application/json"):
            return None
        told = json.loads(self.body)
        is_job = isinstance(told, dict) and told.get("object") in PATHS and "id" in told
        return told if is_job else None


def _seconds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_SECONDS:
        detail = f"wait={text[:20]} is not a whole number of 1 to {MAX_SECONDS} seconds"
        raise Invalid(f"Prefer: {detail}", [FieldProblem("Prefer", detail)])
    return int(text)
