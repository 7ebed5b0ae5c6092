"""Server-Sent Events are read as the HTML standard says."""

from app.cli.sse import ServerEvent, parse_events


def test_fields_comments_and_several_data_lines_are_understood() -> None:
    lines = [
        ": keep-alive",
        "id: 4",
        "event: progress",
        'data: {"step": 1,',
        "data:  1}",
        "",
        "data: bare",
        "",
    ]
    assert list(parse_events(lines)) == [
        ServerEvent("progress", '{"step": 1,\n 1}', "4"),
        # An id holds for every later event, a type only for its own.
        ServerEvent("message", "bare", "4"),
    ]


def test_an_event_without_data_and_an_unfinished_one_are_dropped() -> None:
    assert list(parse_events(["event: status", "", "data: cut off"])) == []
