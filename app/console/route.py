"""Routes that answer with pages, also where something went wrong."""

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from app.console.page import render, see_other
from app.errors import AccountSuspended, LorawrightError, Unauthenticated, status_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route of the console: errors are pages, and who has not signed in is asked to."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except (Unauthenticated, AccountSuspended) as error:
                if "authorization" in request.headers or isinstance(error, AccountSuspended):
                    return error_page(request, error)
                return see_other(request, f"/sign-in?next={quote(_wanted(request), safe='/')}")
            except LorawrightError as error:
                return error_page(request, error)
            except RequestValidationError as error:
                told = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())
                return render(
                    request, "error.html", status=422, title="That address is not right", told=told
                )

        return handled


def error_page(request: Request, error: LorawrightError) -> Response:
    """One of our errors, in the user's words."""
    return render(
        request, "error.html", status=status_of(error), title=error.title, told=error.detail
    )


def _wanted(request: Request) -> str:
    query = request.url.query
    return request.url.path + (f"?{query}" if query else "")
