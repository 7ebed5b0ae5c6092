"""Server-Sent Events out of lines of text, as the HTML standard's section 9.2.6 parses them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerEvent:
    """One event. `id` is what `Last-Event-ID` repeats to get only what comes after it."""

    type: str
    data: str
    id: str | None


def parse_events(lines: Iterable[str]) -> Iterator[ServerEvent]:
    """Events from lines without their ends; one that the stream left unfinished is dropped."""
    event_type, data, last_id = "", list[str](), None
    for line in lines:
        if not line:
            if data:
                yield ServerEvent(event_type or "message", "\n".join(data), last_id)
            event_type, data = "", []
            continue
        if line.startswith(":"):
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event_type = value
        elif name == "data":
            data.append(value)
        elif name == "id" and "\0" not in value:
            last_id = value
