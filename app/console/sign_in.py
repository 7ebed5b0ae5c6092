"""Signing in with an API key, and out."""

import re
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response

from app.accounts import keys
from app.console.page import render, see_other
from app.console.route import PageRoute
from app.errors import CsrfTokenMissing, LorawrightError, status_of
from app.web import browser
from app.web.browser import BrowserSession
from app.web.dependencies import SessionDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Token = Annotated[str, Form(alias=browser.TOKEN_FIELD)]
# A path of ours: neither another host's (`//host`, `/\host`) nor one that a browser cleans.
_OWN_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")


@router.get("/sign-in")
def sign_in_page(
    request: Request, next_page: Annotated[str, Query(alias="next", max_length=1000)] = "/"
) -> Response:
    """Ask for a key; the form's token is of a session that nobody has signed in to yet."""
    return _form(request, next_page)


@router.post("/sign-in")
def sign_in(
    request: Request,
    session: SessionDep,
    api_key: Annotated[str, Form(max_length=500)] = "",
    token: Token = "",
    next_page: Annotated[str, Form(alias="next", max_length=1000)] = "/",
) -> Response:
    """Check the key and keep the session."""
    visit = browser.session_of(request)
    if visit is None:
        error = CsrfTokenMissing("This page was open too long, or cookies are off. Try once more.")
        return _form(request, next_page, error)
    browser.check_token(visit, token)
    secret = api_key.strip()
    try:
        key = keys.authenticate(session, secret)
    except LorawrightError as error:
        return _form(request, next_page, error)
    response = see_other(request, _own(next_page))
    signed_in = BrowserSession.new(key.id, keys.session_mark(secret))
    browser.keep(response, signed_in, secure=request.url.scheme == "https")
    return response


@router.post("/sign-out")
def sign_out(request: Request, token: Token = "") -> Response:
    """Forget the session."""
    visit = browser.session_of(request)
    if visit is not None:
        browser.check_token(visit, token)
    response = see_other(request, "/sign-in")
    browser.forget(response)
    return response


def _form(request: Request, next_page: str, error: LorawrightError | None = None) -> Response:
    visit = BrowserSession.new()
    response = render(
        request,
        "sign_in.html",
        status=200 if error is None else status_of(error),
        token=visit.token,
        next_page=_own(next_page),
        error=error,
    )
    browser.keep(response, visit, secure=request.url.scheme == "https")
    return response


def _own(address: str) -> str:
    return address if _OWN_PATH.fullmatch(address) else "/"
