"""The API in this process, made once: to make it and its first answer takes most of a second."""

from fastapi import FastAPI

from app.settings import Settings, get_settings

_made: list[tuple[Settings, FastAPI]] = []


def api() -> FastAPI:
    """The API of the settings as they are now; the last one, where they are the same."""
    from app.main import create_app

    settings = get_settings()
    if not _made or _made[0][0] != settings:
        _made[:] = [(settings, create_app())]
    return _made[0][1]
