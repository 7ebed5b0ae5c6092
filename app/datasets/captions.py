"""The caption template: how a picture's description and the trigger word become its caption."""

import string

DEFAULT_TEMPLATE = "{trigger}, {caption}, {suffix}"
FIELDS = ("trigger", "caption", "suffix")

_SUFFIX_TASKS = ("style", "photography")


class CaptionTemplateInvalid(ValueError):
    """A caption template names an unknown field, or is not a template at all."""

    code = "caption_template_invalid"


def check_template(template: str) -> None:
    """Refuse a template that could not be filled in.

    Raises:
        CaptionTemplateInvalid: a field is not one of `FIELDS`, has a format or a conversion, or
            the braces do not match.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise CaptionTemplateInvalid(
            f"the caption template {template!r} is malformed: {error}; {{{{ and }}}} write braces"
        ) from error
    for _, field, format_spec, conversion in parts:
        if field is not None and (field not in FIELDS or format_spec or conversion):
            written = field + (f"!{conversion}" if conversion else "")
            written += f":{format_spec}" if format_spec else ""
            allowed = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise CaptionTemplateInvalid(
                f"the caption template may hold {allowed}; it holds {{{written}}}"
            )


def fill_template(template: str, *, task: str, trigger: str, caption: str) -> str:
    """A picture's caption: the template filled in, with nothing left of fields that are empty.

    `suffix` is `in the style of {trigger}` for the tasks style and photography, and empty for
    the others or where there is no trigger word.

    Raises:
        CaptionTemplateInvalid: see `check_template`.
    """
    check_template(template)
    trigger = trigger.strip()
    suffix = f"in the style of {trigger}" if trigger and task in _SUFFIX_TASKS else ""
    filled = template.format(trigger=trigger, caption=caption.strip(), suffix=suffix)
    # An empty field leaves an empty piece between commas.
    pieces = (" ".join(piece.split()) for piece in filled.split(","))
    return ", ".join(piece for piece in pieces if piece)
