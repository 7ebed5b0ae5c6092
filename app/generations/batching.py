"""Which generations may run as one batch: what must be alike, as one key."""

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


def batch_key(base_model: str, request: JsonObject) -> str | None:
    """The key of a frozen request; None where it starts from a picture, and runs alone."""
    if request.get("init_image") is not None:
        return None
    shared = [base_model, *(request[name] for name in SHARED)]
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()
