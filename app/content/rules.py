"""An operator's rules on content: what is asked of each prompt, upload and made picture.

Without settings nothing is refused. `LORAWRIGHT_DENY_LIST` refuses words in prompts;
`LORAWRIGHT_CONTENT_CHECK` names code of the operator's own, an instance of a `ContentCheck` or
what makes one. Workers ask `worker.handlers.made_pictures` besides.
"""

import importlib
import logging
from functools import cache

from PIL import Image

from app.content import deny_list
from app.errors import FieldProblem, PromptRefused
from app.settings import get_settings

log = logging.getLogger(__name__)


class ContentCheck:
    """Parent of operators' own checks. Each answers the name of the rule that is broken, or None.

    It is made once a process and called from many threads at once. What it raises ends the request
    as `internal`, and the job as a failed attempt: nothing is let through that was not checked.
    """

    def prompt(self, text: str) -> str | None:  # noqa: ARG002 (for those who override it)
        """A prompt of a generation, a comparison or a training's samples."""
        return None

    def upload(self, image: Image.Image) -> str | None:  # noqa: ARG002
        """A picture that a customer brings, decoded, as it lies in its file."""
        return None

    def made(self, image: Image.Image) -> str | None:  # noqa: ARG002
        """A picture that was drawn here, before anybody sees it."""
        return None


class ContentCheckInvalid(ValueError):
    """LORAWRIGHT_CONTENT_CHECK names nothing that can be used."""


def check_prompt(pointer: str, text: str) -> None:
    """Let a prompt pass, or not.

    Args:
        pointer: of the field, as a JSON pointer.

    Raises:
        PromptRefused: it names the rule.
    """
    rule = prompt_refusal(text)
    if rule is not None:
        detail = f"The prompt breaks this service's rule {rule!r}"
        raise PromptRefused(detail, [FieldProblem(pointer, detail, "prompt_refused")])


def prompt_refusal(text: str) -> str | None:
    """The rule that a prompt breaks."""
    path = get_settings().deny_list
    refused = None if path is None else deny_list.read(path).refusal(text)
    return refused or _own_check().prompt(text)


def upload_refusal(image: Image.Image) -> str | None:
    """The rule that a customer's picture breaks."""
    return _own_check().upload(image)


def made_refusal(image: Image.Image) -> str | None:
    """The rule that a drawn picture breaks."""
    return _own_check().made(image)


def load() -> None:
    """Read what the settings name now, so that what cannot be used is told at the start.

    Raises:
        DenyListInvalid, ContentCheckInvalid: it cannot be used.
    """
    if (path := get_settings().deny_list) is not None:
        deny_list.read(path)
    _own_check()


@cache
def _own_check() -> ContentCheck:
    named = get_settings().content_check
    if named is None:
        return ContentCheck()
    module, colon, name = named.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
        made = found() if callable(found) else found
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        detail = f"LORAWRIGHT_CONTENT_CHECK is {named!r}: {error}"
        raise ContentCheckInvalid(detail) from error
    if not colon or not isinstance(made, ContentCheck):
        raise ContentCheckInvalid(
            f"LORAWRIGHT_CONTENT_CHECK is {named!r}; it names module:name of a "
            "app.content.rules.ContentCheck"
        )
    log.info("content is checked by %s", named)
    return made
