"""How a captioner's words become a training caption: the dataset's template."""

from string import Formatter

from app.errors import FieldProblem, Invalid
from app.trainings.params import Task

DEFAULT_TEMPLATE = "{trigger}, {caption}, {suffix}"
FIELDS = frozenset({"trigger", "caption", "suffix"})
# Tasks that teach a manner of drawing say so once more at the end of the caption.
STYLE_TASKS: frozenset[Task] = frozenset({"style", "photography"})


def check_template(template: str) -> str:
    """The template, if it names no field but trigger, caption and suffix.

    Raises:
        Invalid: it is not a template, or names another field.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise _invalid(f"the template {template!r} is malformed: {error}") from error
    for _, name, spec, conversion in parts:
        if name is not None and (name not in FIELDS or spec or conversion):
            written = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            raise _invalid(
                f"{{{written}}} is not a field; there are {{trigger}}, {{caption}}, {{suffix}}"
            )
    return template


def suffix_for(task: Task, trigger_word: str) -> str:
    """What `{suffix}` stands for."""
    return f"in the style of {trigger_word}" if task in STYLE_TASKS and trigger_word else ""


def render(template: str, *, task: Task, trigger_word: str, caption: str) -> str:
    """Fill a checked template in; empty fields leave no dangling comma."""
    text = template.format(
        trigger=trigger_word, caption=caption, suffix=suffix_for(task, trigger_word)
    )
    pieces = (" ".join(piece.split()) for piece in text.split(","))
    return ", ".join(piece for piece in pieces if piece)


def _invalid(detail: str) -> Invalid:
    return Invalid(detail, [FieldProblem("/caption_template", detail)])
