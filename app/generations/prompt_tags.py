"""`<lora:name:0.7>` in a prompt: the same as an entry in `loras`."""

import re
from dataclasses import dataclass

from app.errors import FieldProblem, Invalid

TAG = re.compile(r"<lora:([^<>:]+)(?::([^<>]*))?>")
WEIGHT_LIMIT = 2.0


@dataclass(frozen=True)
class Tag:
    """A LoRA by name or id; None leaves the weight to the LoRA."""

    lora: str
    weight: float | None


def split(prompt: str) -> tuple[str, list[Tag]]:
    """The prompt without its tags, and the tags in order.

    Raises:
        Invalid: a weight is not a number within -2..2.
    """
    tags = [Tag(match[1].strip(), _weight(match)) for match in TAG.finditer(prompt)]
    if not tags:
        return prompt, []
    return " ".join(TAG.sub(" ", prompt).split()), tags


def _weight(match: re.Match[str]) -> float | None:
    if match[2] is None:
        return None
    try:
        weight = float(match[2])
    except ValueError:
        weight = float("nan")
    if not -WEIGHT_LIMIT <= weight <= WEIGHT_LIMIT:
        detail = f"{match[0]}: the weight must be a number from -{WEIGHT_LIMIT} to {WEIGHT_LIMIT}"
        raise Invalid(detail, [FieldProblem("/prompt", detail)])
    return weight
