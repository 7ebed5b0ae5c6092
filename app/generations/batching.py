"""What generations may share: a batch, if these things are alike; merged LoRAs, if those are."""

import hashlib
import json

from app.database import JsonObject

# Rows of one batch share these; prompt, seed and LoRAs are each row's own.
SHARED = (
    "width",
    "height",
    "steps",
    "guidance_scale",
    "guidance_rescale",
    "scheduler",
    "hires",
)
# Of a frozen LoRA: what it is called, not what it does.
NAMES = frozenset({"lora", "name", "object_key"})


def batch_key(base_model: str, request: JsonObject) -> str | None:
    """The key of a frozen request; None where it starts from a picture, and runs alone."""
    if request.get("init_image") is not None:
        return None
    shared = [base_model, *(request[name] for name in SHARED)]
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()


def recipe(loras: list[JsonObject]) -> str | None:
    """A key of frozen LoRAs at their weights; None without any."""
    if not loras:
        return None
    # Whatever else stands in an entry is of no weight, but its name.
    uses = [{name: use[name] for name in sorted(use) if name not in NAMES} for use in loras]
    return hashlib.sha256(json.dumps(uses, sort_keys=True).encode()).hexdigest()
