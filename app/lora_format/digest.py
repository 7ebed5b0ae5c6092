"""What a LoRA file says of itself, in the words a person asks: base, training, trigger words.

Nothing here is believed: it is a stranger's text, shown cut to a length, and read where it is a
number.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.lora_format.text import shown

TOP_TAGS = 20
# Of the most frequent tags, how many are offered as trigger phrases.
_TAG_PHRASES = 3
_TEXT_CHARS = 300
# The standard has about thirty.
_MODELSPEC_FIELDS = 100
# Numbers beyond this are not exact in every reader of JSON.
_LARGEST = 2**53

# Our names for sd-scripts' own. `ss_epoch` is the file's, `ss_num_epochs` the whole training's.
_TEXTS = {
    "base_model_version": "ss_base_model_version",
    "base_model": "ss_sd_model_name",
    "output_name": "ss_output_name",
    "network_module": "ss_network_module",
    "network_args": "ss_network_args",
    "optimizer": "ss_optimizer",
    "resolution": "ss_resolution",
}
_NUMBERS = {
    "network_dim": "ss_network_dim",
    "network_alpha": "ss_network_alpha",
    "steps": "ss_steps",
    "epoch": "ss_epoch",
    "epochs": "ss_num_epochs",
    "images": "ss_num_train_images",
    "learning_rate": "ss_learning_rate",
    "seed": "ss_seed",
}


@dataclass(frozen=True)
class MetadataDigest:
    """The metadata's `ss_*` and `modelspec.*` in short.

    Attributes:
        training: what is known of the training; text, numbers, or absent.
        tags: the most frequent ones of the captions and how often each occurs, descending.
        modelspec: the standard's fields by name, without the thumbnail picture.
        trigger_phrases: words that may call up what was learnt, with where each was found:
            `modelspec`, `embedding` or `tags`; each once.
    """

    training: dict[str, str | float]
    tags: tuple[tuple[str, int], ...]
    modelspec: dict[str, str]
    trigger_phrases: tuple[tuple[str, str], ...]


def digest(metadata: Mapping[str, str], trigger: str | None) -> MetadataDigest:
    """Pick out what people look for.

    Args:
        trigger: the word that the file's own token vectors stand for.
    """
    training: dict[str, str | float] = {
        name: shown(metadata[key], _TEXT_CHARS)
        for name, key in _TEXTS.items()
        # sd-scripts writes "None" for what was not given.
        if metadata.get(key, "None") not in ("None", "")
    }
    numbers = {name: _number(metadata.get(key)) for name, key in _NUMBERS.items()}
    training |= {name: value for name, value in numbers.items() if value is not None}
    tags = _tags(metadata.get("ss_tag_frequency"))
    named = [key for key in sorted(metadata) if key.startswith("modelspec.")]
    modelspec = {
        shown(key.removeprefix("modelspec."), _TEXT_CHARS): shown(metadata[key], _TEXT_CHARS)
        for key in named[:_MODELSPEC_FIELDS]
        if key != "modelspec.thumbnail"
    }
    found = [(modelspec.get("trigger_phrase", ""), "modelspec"), (trigger or "", "embedding")]
    found += [(tag, "tags") for tag, _ in tags[:_TAG_PHRASES]]
    # Each once, under the first place that names it.
    phrases: dict[str, str] = {}
    for phrase, source in found:
        if phrase.strip():
            phrases.setdefault(phrase.strip(), source)
    return MetadataDigest(training, tags, modelspec, tuple(phrases.items()))


def _number(text: str | None) -> float | int | None:
    """A number that JSON can hold; None for anything else."""
    if text is None or len(text) > 40:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value) or abs(value) > _LARGEST:
        return None
    return int(value) if value.is_integer() else value


def _tags(text: str | None) -> tuple[tuple[str, int], ...]:
    """Over all folders of `{folder: {tag: count}}`."""
    try:
        folders: Any = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return ()
    counts: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if type(count) is int and 0 < count <= _LARGEST:
                counts[shown(tag.strip(), _TEXT_CHARS)] += count
    del counts[""]
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(ordered[:TOP_TAGS])
