"""Errors in the shape that OpenAI's clients understand: {"error": {message, type, param, code}}."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from app.errors import LorawrightError, status_of
from app.web.once import OnceRoute


class OpenAIRoute(OnceRoute):
    """A route whose errors have this shape, those of its own dependencies included."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                first = error.errors()[0]
                param = ".".join(str(part) for part in first["loc"][1:])
                return _answer(400, f"{param}: {first['msg']}", param, "invalid_request")
            except LorawrightError as error:
                # Their clients know 400 for what we call 422.
                status = 400 if status_of(error) == 422 else status_of(error)
                where = error.problems[0].pointer.strip("/") if error.problems else ""
                return _answer(status, error.detail, where, error.code)

        return handled


def _answer(status: int, message: str, param: str, code: str) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": param or None, "code": code}
    headers = {"Retry-After": "5"} if status == 503 else {}
    return JSONResponse({"error": error}, status_code=status, headers=headers)
