"""`Idempotency-Key`: a request that a client sends again is answered as it was the first time.

The record is written in the transaction that creates what the answer tells of, so there is no
moment at which one exists without the other. Routes that receive or wait for long have no such
transaction; theirs is written right after, and what they create is the same for the same bytes.
"""

import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive

from app.database import transaction
from app.errors import FieldProblem, IdempotencyKeyReused, Invalid
from app.idempotency import service
from app.idempotency.models import IdempotencyRecord
from app.isolation import act_for

MAX_KEY_CHARS = 255
# Of the first answer; others are of the connection, or of the moment.
KEPT_HEADERS = ("content-type", "location", "etag")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class OnceRoute(APIRoute):
    """A route whose POSTs honour `Idempotency-Key`."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        if "POST" not in (self.methods or ()):
            return handle

        async def handled(request: Request) -> Response:
            key = request.headers.get("idempotency-key")
            return await handle(request) if key is None else await _once(request, key, handle)

        return handled


class Once:
    """One request with a key, on its way through a route."""

    def __init__(self, key: str, scope: Any, receive: Receive) -> None:
        self.key = key
        self.session: Session | None = None
        self.account_id: str | None = None
        # What is kept in place of an answer that must not be.
        self.kept_body: bytes | None = None
        self._receive = receive
        self._whole = False
        self._hash = hashlib.sha256()
        for part in (scope["method"], scope["path"], scope["query_string"].decode("latin-1")):
            self._hash.update(part.encode() + b"\0")

    async def receive(self) -> Message:
        """The next part of the body, which the fingerprint covers."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._hash.update(message.get("body", b""))
            self._whole = not message.get("more_body", False)
        return message

    async def fingerprint(self) -> str:
        """SHA-256 of the whole request; what the route has left of the body is read."""
        while not self._whole:
            if (await self.receive())["type"] == "http.disconnect":
                break
        return self._hash.hexdigest()

    def begin(self, session: Session, account_id: str, *, keeps: bool) -> None:
        """Called as soon as the account is known.

        Args:
            keeps: the session's transaction is the one that creates; else it only looks.

        Raises:
            Answered: an earlier request with the key has an answer.
            IdempotencyKeyInFlight: one is being answered.
        """
        self.account_id = account_id
        record = service.begin(session, account_id, self.key)
        if record is not None and record.status != service.PENDING:
            session.expunge(record)
            raise Answered(record)
        if keeps:
            self.session = session

    def submit(
        self, session: Session, account_id: str, fingerprint: str, make: Callable[[], str]
    ) -> str:
        """The job of a route that waits for it: made now, or by an earlier request with the key.

        Raises:
            IdempotencyKeyReused: that was another request.
        """
        record = service.begin(session, account_id, self.key)
        if record is not None:
            self.check(record, fingerprint)
            return record.body.decode()
        job_id = make()
        service.keep(
            session,
            account_id,
            self.key,
            fingerprint=fingerprint,
            status=service.PENDING,
            headers={},
            body=job_id.encode(),
        )
        return job_id

    def check(self, record: IdempotencyRecord, fingerprint: str) -> None:
        """Refuse the key of another request."""
        if record.fingerprint != fingerprint:
            raise IdempotencyKeyReused(
                f"The Idempotency-Key {self.key!r} was sent with another request on "
                f"{record.created_at:%Y-%m-%d %H:%M:%S} UTC"
            )


class Answered(Exception):
    """Not an error: there is a first answer to give again."""

    def __init__(self, record: IdempotencyRecord) -> None:
        self.record = record


def once_of(request: Request) -> Once | None:
    """The request's own, where it came with a key to a route that honours it."""
    once: Once | None = getattr(request.state, "once", None)
    return once


def keep_without_secret(request: Request, answer: BaseModel) -> None:
    """Have an answer kept with `secret` null: answers are kept for a day, secrets are not."""
    if (once := once_of(request)) is not None:
        once.kept_body = answer.model_copy(update={"secret": None}).model_dump_json().encode()


async def _once(request: Request, key: str, handle: Handler) -> Response:
    if not 1 <= len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        detail = f"Idempotency-Key has {len(key)} characters; 1 to {MAX_KEY_CHARS} of ASCII work"
        raise Invalid(detail, [FieldProblem("Idempotency-Key", detail)])
    once = Once(key, request.scope, request.receive)
    request.state.once = once
    try:
        response = await handle(Request(request.scope, once.receive))
    except Answered as answered:
        record = answered.record
        # The route was left before it could say so; what waits for the job goes on from here.
        act_for(record.account_id)
        once.check(record, await once.fingerprint())
        headers = {**record.headers, "Idempotent-Replayed": "true"}
        return Response(record.body, record.status, headers)
    if response.status_code < 300 and once.account_id is not None:
        await run_in_threadpool(_keep, once, await once.fingerprint(), response)
    return response


def _keep(once: Once, fingerprint: str, response: Response) -> None:
    assert once.account_id is not None, "it is known once `begin` has been called"
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    answer: dict[str, Any] = {
        "fingerprint": fingerprint,
        "status": response.status_code,
        "headers": headers,
        "body": bytes(response.body) if once.kept_body is None else once.kept_body,
    }
    if once.session is not None:
        # Committed with what the route has created, before the answer leaves.
        service.keep(once.session, once.account_id, once.key, **answer)
        return
    with transaction() as session:
        service.keep(session, once.account_id, once.key, **answer)
