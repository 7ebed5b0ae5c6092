"""The Python that runs a page's blocks one after another, in one namespace, as a notebook would.

Each line of standard input is an order in JSON; the answer is 0, or the line that failed.
"""

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    """Obey until standard input ends."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    sys.path.insert(0, "")
    for line in sys.stdin:
        order = json.loads(line)
        os.environ.clear()
        os.environ.update(order["environment"])
        with (
            Path(order["output"]).open("a") as output,
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            failed_at = _run(Path(order["script"]).read_text(), order["page"], namespace)
        print(failed_at)


def _run(text: str, page: str, namespace: dict[str, Any]) -> int:
    """0, or the line of the page at which it failed; what went wrong is printed."""
    try:
        exec(compile(text, page, "exec"), namespace)
    except BaseException as error:
        lines = [
            frame.lineno or 1
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == page
        ]
        traceback.print_exc()
        return lines[-1] if lines else 1
    return 0


main()
