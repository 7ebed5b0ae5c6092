"""Which emoji there are to draw and to name, and the words for them."""

import json
import random
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

# Drawn so much like another that 64 px do not tell them apart, or signs rather than things.
LOOKALIKES = re.compile(
    r"oclock|mailbox|banknote|-suit$|card-index|-book$|envelope-with|incoming|paperclips|"
    r"chart-increasing-with|locked-with|speaker-(medium|low)|gibbous|quarter-moon-face|waning|"
    r"oncoming|tram-car|high-speed|large-cloud|small-cloud|japanese-post|-film|ballot|level|"
    r"kissing-face-with|heart-exclamation|umbrella-on|page-with|trackball|label|kaaba|"
    r"map-of|fish-cake|tanabata|pine-decoration|moon-viewing|eye-in|goal-net|hole|right-anger|"
    r"left-speech|with-decorative|open-file|snowman-without|without-mouth|hourglass-not|"
    r"frowning-face-with-open|old-key|houses|tiger$|woman|postal|optical|dvd"
)
# In the example datasets, whatever the sets that draw them.
KEPT = ("bear", "smiling-face", "sun", "red-heart")


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


def load_captioner_concepts(cache: Path) -> list[str]:
    """Those drawn in at least five sets' styles and not all but alike.

    Concepts in fewer sets teach a captioner one drawing rather than a thing.
    """
    packs = ("noto-v1", "high-contrast", "flat")
    icons = [set(json.loads((cache / pack / "icons.json").read_text())["icons"]) for pack in packs]
    return [
        name
        for name in load_concepts(cache)
        if not LOOKALIKES.search(name) and (all(name in pack for pack in icons) or name in KEPT)
    ]


def caption_of(concept: str) -> str:
    """The words for an icon: `red-apple` is "red apple"."""
    return concept.replace("-", " ")


def keywords_of(cache: Path) -> dict[str, list[str]]:
    """Emojilib's keywords by icon name, without the name itself: `red-apple` → ["fruit", ...]."""
    listed = json.loads((cache / "emojilib" / "dist" / "emoji-en-US.json").read_text())
    return {
        words[0].replace("_", "-"): [
            word.replace("_", " ") for word in words[1:] if re.fullmatch(r"[a-z_]{3,20}", word)
        ]
        for words in listed.values()
    }


def training_captions(
    concept: str, keywords: list[str], background: str, style: str, draw: random.Random, count: int
) -> list[str]:
    """`count` captions of one picture: the name alone, or with keywords, background and style."""
    captions = []
    for _ in range(count):
        parts = [caption_of(concept)]
        if background != "white" or draw.random() < 0.2:
            parts[0] += f" on a {background} background"
        if keywords and draw.random() < 0.5:
            parts += draw.sample(keywords, min(len(keywords), draw.randint(1, 3)))
        if draw.random() < 0.4:
            parts.append(f"{style} style")
        captions.append(", ".join(parts))
    return captions
