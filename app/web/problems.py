"""Every error as RFC 9457 problem+json: ours, the framework's, and the unforeseen."""

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from app.errors import (
    DatabaseUnavailable,
    FieldProblem,
    Invalid,
    LorawrightError,
    status_of,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
FORM = "multipart/form-data"
# What FastAPI says where Python's reader gave up on a body for another reason than its grammar.
UNREADABLE_JSON = "There was an error parsing the body"
FRAMEWORK_CODES = {
    400: "invalid_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
}


class ProblemField(BaseModel):
    """One wrong value."""

    pointer: str
    detail: str
    code: str


class Problem(BaseModel):
    """The body of every answer that is not a success."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    retryable: bool
    errors: list[ProblemField]


def problem_response(
    request: Request,
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    retryable: bool = False,
    fields: list[FieldProblem] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An answer in the one shape all errors have."""
    problem = Problem(
        type=f"urn:lorawright:error:{code}",
        title=title,
        status=status,
        detail=detail,
        instance=str(getattr(request.state, "request_id", "")),
        code=code,
        retryable=retryable,
        errors=[
            ProblemField(pointer=field.pointer, detail=field.detail, code=field.code)
            for field in fields or []
        ],
    )
    return JSONResponse(
        problem.model_dump(), status_code=status, media_type=MEDIA_TYPE, headers=headers
    )


def from_domain(request: Request, error: LorawrightError) -> JSONResponse:
    """One of our own errors."""
    status = status_of(error)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 503:
        headers["Retry-After"] = "5"
    elif error.retryable:
        headers["Retry-After"] = "1"
    return problem_response(
        request,
        status=status,
        code=error.code,
        title=error.title,
        detail=error.detail,
        retryable=error.retryable,
        fields=error.problems,
        headers=headers,
    )


def add_error_handlers(app: FastAPI) -> None:
    """Register a handler for each kind of error a request can end in."""

    @app.exception_handler(LorawrightError)
    def domain(request: Request, error: LorawrightError) -> JSONResponse:
        return from_domain(request, error)

    @app.exception_handler(RequestValidationError)
    def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        if (taken := _type_not_sent(request, error)) is not None:
            sent = request.headers.get("content-type")
            return problem_response(
                request,
                status=415,
                code="unsupported_media_type",
                title="The body is of another type",
                detail=f"Content-Type is {sent or 'missing'}; {taken} is taken here",
            )
        fields = _meant(_field(item, error.body) for item in error.errors())
        return problem_response(
            request,
            status=422,
            code="invalid_request",
            title="The request has invalid values",
            detail="; ".join(f"{field.pointer}: {field.detail}" for field in fields[:3]),
            fields=fields,
        )

    app.exception_handler(HTTPException)(framework_problem)

    @app.exception_handler(OperationalError)
    @app.exception_handler(InterfaceError)
    @app.exception_handler(PoolTimeout)
    def database(request: Request, error: Exception) -> JSONResponse:
        log.error("database away: %s", error)
        return from_domain(request, DatabaseUnavailable("The database cannot be reached now"))

    @app.exception_handler(DataError)
    def unstorable(request: Request, error: DataError) -> JSONResponse:
        # The last net: where a value comes from a request, its schema should have refused it.
        log.error("a value that the database cannot hold", exc_info=error)
        return from_domain(request, Invalid("A value is beyond what can be stored"))

    @app.exception_handler(Exception)
    def unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("unforeseen error", exc_info=error)
        return problem_response(
            request,
            status=500,
            code="internal",
            title="Something went wrong",
            detail="The error is recorded under this request's id",
        )


def framework_problem(request: Request, error: HTTPException) -> JSONResponse:
    """What the framework itself refuses."""
    if error.status_code == 400 and error.detail == UNREADABLE_JSON:
        detail = "The body's JSON is nested too deeply, or has a number of too many digits"
        return from_domain(request, Invalid(detail, [FieldProblem("", detail)]))
    return problem_response(
        request,
        status=error.status_code,
        code=FRAMEWORK_CODES.get(error.status_code, "invalid_request"),
        title=str(error.detail),
        detail=f"{request.method} {request.url.path}: {error.detail}",
        headers=dict(error.headers or {}),
    )


def _type_not_sent(request: Request, error: RequestValidationError) -> str | None:
    """The type of body that the route takes, where another one came."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or route.body_field is None:
        return None
    sent = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if isinstance(route.body_field.field_info, Form):
        return None if sent in ("", FORM) else FORM
    return (
        None
        if not error.body or re.fullmatch(r"application/([\w.+-]+\+)?json", sent)
        else "application/json"
    )


def _field(item: dict[str, Any], body: Any) -> FieldProblem:
    """pydantic's location as a JSON pointer; a body's own root has no name in it."""
    places = list(item["loc"])
    if places and places[0] == "body":
        is_missing = item["type"] == "missing"
        places = (
            [] if item["type"] == "json_invalid" else _without_tags(places[1:], body, is_missing)
        )
    where = [str(part).replace("~", "~0").replace("/", "~1") for part in places]
    return FieldProblem("/" + "/".join(where) if where else "", item["msg"], item["type"])


def _without_tags(places: list[str | int], body: Any, is_missing: bool) -> list[str | int]:
    """Of a value that may have several forms pydantic names the form too, which is no place."""
    if not isinstance(body, dict):
        return places
    kept: list[str | int] = []
    here: Any = body
    for number, part in enumerate(places):
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            # A missing field's own name is no tag.
            if not is_missing or number < len(places) - 1:
                continue
        kept.append(part)
    return kept


def _meant(told: Iterable[FieldProblem]) -> list[FieldProblem]:
    """Each once, in order, without the forms of a value that it was not told in.

    Where a value may be a number or an object and is a number out of range, or an object with a
    wrong value in it, pydantic says of it besides that it is not the other.
    """
    fields = list(dict.fromkeys(told))
    recognized = {field.pointer for field in fields if not _of_another_type(field)}
    for field in fields:
        recognized.update(_around(field.pointer))
    return [
        field for field in fields if field.pointer not in recognized or not _of_another_type(field)
    ]


def _around(pointer: str) -> Iterator[str]:
    """The values that hold the one at a pointer, but for the root."""
    parts = pointer.split("/")
    return ("/".join(parts[:end]) for end in range(2, len(parts)))


def _of_another_type(field: FieldProblem) -> bool:
    return field.code.endswith(("_type", "_parsing"))
