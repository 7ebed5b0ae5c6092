"""The console's routes and files, as one application mounts them."""

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.console import account, control, playground, sign_in, studio
from app.console.page import STATIC, render, static_version
from app.web.problems import framework_problem


class KeptFiles(StaticFiles):
    """Static files under an address that changes with them: browsers need never ask again."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, to be kept for a year."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def add_console(app: FastAPI) -> None:
    """Add the pages at `/`, their files, and a page for addresses that there is nothing at."""
    for module in (sign_in, studio, playground, account, control):
        app.include_router(module.router)
    files = GZipMiddleware(KeptFiles(directory=STATIC), minimum_size=1000)
    app.mount(f"/static/{static_version()}", files, name="static")

    @app.exception_handler(HTTPException)
    def no_page(request: Request, error: HTTPException) -> Response:
        is_page = "text/html" in request.headers.get("accept", "")
        if error.status_code != 404 or request.url.path.startswith("/v1") or not is_page:
            return framework_problem(request, error)
        told = f"There is nothing at {request.url.path}."
        return render(request, "error.html", status=404, title="No such page", told=told)
