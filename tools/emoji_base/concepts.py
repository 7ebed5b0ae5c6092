"""Which emoji there are to draw and to name, and the words for them."""

import json
import re
from pathlib import Path

# Whole categories of noto's metadata; of Symbols only what is a thing.
CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "Smileys & Emotion",
    "Travel & Places",
)
# Clock faces differ by a hand of two pixels; no small picture tells them apart.
LEFT_OUT = re.compile(r"(o-clock|-thirty|clock-face|skin-tone|^man-|^woman-|^person-|keycap)")


def load_concepts(cache: Path) -> list[str]:
    """Icon names of noto that the fluent set has as well, sorted, e.g. `red-apple`."""
    categories = json.loads((cache / "noto" / "metadata.json").read_text())["categories"]
    fluent = set(json.loads((cache / "fluent" / "icons.json").read_text())["icons"])
    found = {
        name
        for category in CATEGORIES
        for name in categories[category]
        if name in fluent and not LEFT_OUT.search(name)
    }
    return sorted(found)


def caption_of(concept: str) -> str:
    """The words for an icon: `red-apple` is "red apple"."""
    return concept.replace("-", " ")
