"""What every page has: its frame, its account, and headers that let nothing strange in."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.accounts.models import ApiKey
from app.console.words import FILTERS
from app.storage import get_store
from app.web import browser
from app.web.dependencies import acting_key

HERE = Path(__file__).parent
STATIC = HERE / "static"


@dataclass(frozen=True)
class ConsolePage:
    """One request for a page, by somebody who has signed in."""

    request: Request
    key: ApiKey

    def render(self, template: str, **context: Any) -> HTMLResponse:
        """The page of a template, which sees `account`, `operator` and `token` besides."""
        visit = browser.session_of(self.request)
        return render(
            self.request,
            template,
            account=self.key.account,
            operator=is_operator(self.key),
            token="" if visit is None else visit.token,
            **context,
        )


async def console_page(
    request: Request, key: Annotated[ApiKey, Depends(acting_key)]
) -> ConsolePage:
    """The page of whoever has signed in, whose rows alone the request sees."""
    return ConsolePage(request, key)


PageDep = Annotated[ConsolePage, Depends(console_page)]


def is_operator(key: ApiKey) -> bool:
    """Whether the control room is theirs."""
    return "admin" in key.scopes and key.account.role == "admin"


def render(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """A page, in or out of a session."""
    frame = {"account": None, "operator": False, "token": "", "path": request.url.path}
    html = _environment().get_template(template).render(**(frame | context))
    return HTMLResponse(html, status_code=status, headers=headers())


def headers() -> dict[str, str]:
    """What a browser may do with a page: nothing from elsewhere but pictures from storage."""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": f"'self' data: blob: {_storage_origin()}",
        "connect-src": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cache-Control": "private, no-store",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }


@cache
def _storage_origin() -> str:
    """Where presigned addresses lead."""
    address = urlsplit(get_store().presign_get("any"))
    return f"{address.scheme}://{address.netloc}"


@cache
def static_version() -> str:
    """A hash over all static files: part of their path, so that browsers may keep them for good."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(STATIC).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def static(name: str) -> str:
    """The address of a static file."""
    return f"/static/{static_version()}/{name}"


def see_other(request: Request, address: str) -> Response:
    """Go to another page; a part of a page that is asked for anew takes the whole page along."""
    if "hx-request" in request.headers:
        return Response(status_code=204, headers={"HX-Redirect": address})
    return Response(status_code=303, headers={"Location": address})


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals["static"] = static
    return environment
