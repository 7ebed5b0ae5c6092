"""Which requests this worker understands: while versions are mixed, a newer API may ask for more.

A request says what it needs to be understood, as the lowest number that does: `needs` of a
generation, a comparison or a LoRA tool, where nothing means 1, and the `format` of a training's
spec. Within a number fields may be added that whoever does not know them may pass over; what would
make another picture or LoRA takes the next number. A job that asks for more than a worker knows
goes back to its queue for a newer one.
"""

from app.database import JsonObject

UNDERSTOOD = 1
TRAINING_FORMAT = "lorawright.training/1"
# How long others have to claim it before this worker sees it again.
PAUSE_SECONDS = 30.0


class TooNew(Exception):
    """The job is for a newer worker; it is given back, and nothing is counted against it."""


def check(request: JsonObject) -> None:
    """Make sure that nothing in a frozen request is beyond this worker.

    Raises:
        TooNew: it needs a newer one.
    """
    needs = request.get("needs", 1)
    if needs > UNDERSTOOD:
        raise TooNew(f"the request needs a worker that understands {needs}; this one {UNDERSTOOD}")


def check_training(spec: JsonObject) -> None:
    """The same of a training's spec."""
    if spec["format"] != TRAINING_FORMAT:
        raise TooNew(f"the spec is {spec['format']}; this worker understands {TRAINING_FORMAT}")
