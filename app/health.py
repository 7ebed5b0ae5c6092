"""Whether the process lives, and whether each server it needs answers."""

from collections.abc import Callable
from typing import Any

import redis
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.broker import get_redis
from app.database import get_engine
from app.errors import LorawrightError
from app.storage import get_store

router = APIRouter(tags=["health"])


@router.get("/livez")
def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz() -> JSONResponse:
    """200 when Postgres and storage answer. Redis is named too, but its absence only slows."""
    told = report()
    return JSONResponse(told, status_code=200 if told["status"] == "ok" else 503)


def report() -> dict[str, Any]:
    """`status`, and of each of the `dependencies` what it answers."""
    checks: dict[str, Callable[[], object]] = {
        "postgres": _ask_postgres,
        "redis": get_redis().ping,
        "s3": get_store().check,
    }
    answers = {name: _outcome(check) for name, check in checks.items()}
    ready = answers["postgres"] == "ok" and answers["s3"] == "ok"
    return {"status": "ok" if ready else "unavailable", "dependencies": answers}


def _ask_postgres() -> None:
    with get_engine().connect() as connection:
        connection.execute(text("SELECT 1"))


def _outcome(check: Callable[[], object]) -> str:
    try:
        check()
    except (SQLAlchemyError, redis.RedisError, LorawrightError, OSError) as error:
        return type(error).__name__
    return "ok"
