"""How a LoRA is named on the command line: `NAME`, `NAME:0.7`, `NAME:unet=0.8,…`, `…@0.2-0.8`."""

import re
from typing import Any

from app.cli.errors import CommandError

HELP = (
    "A LoRA's name or id, and its weight: NAME:0.7; repeat, up to five. Parts: "
    "NAME:unet=0.8,text_encoder=0.5,unet.down_blocks.1=0.2. Part of the steps: NAME:0.7@0.2-0.8."
)
_RANGE = re.compile(r"@(\d*\.?\d+)-(\d*\.?\d+)$")


def parse_lora(text: str) -> dict[str, Any]:
    """One LoRA as a generation request has it; the weight is after the last colon.

    Raises:
        CommandError: a weight is not a number.
    """
    plain, use = text, {}
    if found := _RANGE.search(text):
        plain = text[: found.start()]
        use = {"start": float(found[1]), "end": float(found[2])}
    name, colon, weight = plain.rpartition(":")
    if not colon:
        return {"lora": plain, **use}
    if "=" not in weight:
        return {"lora": name, "weight": _number(text, weight), **use}
    weights: dict[str, Any] = {}
    for part in weight.split(","):
        path, _, value = part.partition("=")
        if path in ("unet", "text_encoder"):
            weights[path] = _number(text, value)
        else:
            weights.setdefault("blocks", {})[path] = _number(text, value)
    return {"lora": name, "weight": weights, **use}


def _number(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise CommandError(f"--lora {text}: the weight {value!r} is not a number") from None
