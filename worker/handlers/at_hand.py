"""What this process has loaded, for the choice of its next job."""

from collections.abc import Collection

from app.jobs.claiming import NOTHING, Held
from worker.handlers.models import pipelines

# The recipe drawn last in this process, once something was drawn.
_drawn: list[str | None] = []


def remember(recipes: Collection[str | None]) -> None:
    """Requests with these recipes have just been drawn; several are merged into no weights."""
    _drawn[:] = [next(iter(recipes)) if len(set(recipes)) == 1 else None]


def at_hand() -> Held:
    """The loaded base models and the merged LoRAs; nothing before the first drawing."""
    if not _drawn:
        return NOTHING
    return Held(frozenset(pipelines().held()), _drawn[0])
