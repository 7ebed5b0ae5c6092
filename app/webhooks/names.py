"""The names of events: `<kind>.<status>` for every kind of job and every status."""

from collections.abc import Iterable
from typing import get_args

from app.jobs.models import JobKind, JobStatus

TEST = "webhook.test"
KINDS: tuple[str, ...] = get_args(JobKind)
STATUSES: tuple[str, ...] = get_args(JobStatus)
EVENTS: tuple[str, ...] = tuple(f"{kind}.{status}" for kind in KINDS for status in STATUSES)
# What an endpoint may ask for.
PATTERNS: tuple[str, ...] = ("*", *(f"{kind}.*" for kind in KINDS), *EVENTS)


def wanted(patterns: Iterable[str], event: str) -> bool:
    """Whether an endpoint that asks for these wants this event."""
    kind = event.partition(".")[0]
    return not {"*", f"{kind}.*", event}.isdisjoint(patterns)
