"""Asks of every picture that was drawn whether it may be kept, before it is stored or shown."""

import logging
import threading
from functools import cache

from PIL import Image

from app.content import rules
from app.errors import JobError
from app.settings import get_settings
from worker.handlers.models import device_policy
from worker.ml.inference.safety import SafetyChecker

log = logging.getLogger(__name__)
SAFETY_RULE = "safety_checker"
# One model, one picture at a time.
_lock = threading.Lock()


class ImageRefused(JobError):
    """A drawn picture breaks a rule of the operator; nothing of it is kept."""

    code = "image_refused"
    title = "A picture is refused"


def check_made(image: Image.Image) -> None:
    """Let a drawn picture pass, or not.

    Raises:
        ImageRefused: it names the rule.
    """
    rule = refusal(image)
    if rule is not None:
        raise ImageRefused(f"A drawn picture breaks this service's rule {rule!r}; none is kept")


def refusal(image: Image.Image) -> str | None:
    """The rule that a drawn picture breaks."""
    rule = rules.made_refusal(image)
    if rule is None and get_settings().safety_checker is not None:
        with _lock:
            rule = SAFETY_RULE if _safety_checker().refuses(image) else None
    return rule


@cache
def _safety_checker() -> SafetyChecker:
    named = get_settings().safety_checker
    assert named is not None, "it is only asked for where one is named"
    log.info("made pictures are checked by %s", named)
    return SafetyChecker(named, device_policy().device)
