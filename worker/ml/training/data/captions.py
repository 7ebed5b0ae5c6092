"""What becomes of a caption before it is encoded: prefix, wildcards, shuffling, dropped tags.

In the order of sd-scripts. Every choice is a pure function of the seed, the caption and the
number of the variant, so that a few variants can be encoded ahead and chosen among later.
"""

import hashlib
import re

import torch

from app.trainings.params import TrainingParams
from worker.ml.training.sampling import generator_for
from worker.ml.training.spec import CaptionOptions, ImageSpec

# `{a|b}`; doubled braces stand for braces.
_WILDCARD = re.compile(r"(?<!\{)\{([^{}]*\|[^{}]*)\}(?!\})")


def caption_options(image: ImageSpec, params: TrainingParams) -> CaptionOptions:
    """The image's own options, or else the run's."""
    if image.captions is not None:
        return image.captions
    names = CaptionOptions.model_fields.keys() & TrainingParams.model_fields.keys()
    return CaptionOptions(**{name: getattr(params, name) for name in names})


def varies(caption: str, options: CaptionOptions) -> bool:
    """Whether a caption's variants can differ."""
    text = _framed(caption, options)
    if options.wildcards and ("\n" in text or _WILDCARD.search(text)):
        return True
    _, moving, _ = _parts(_plain(text, options), options)
    return bool(moving) and (
        options.tag_dropout_rate > 0 or (options.shuffle_caption and len(set(moving)) > 1)
    )


def variants(caption: str, options: CaptionOptions, count: int, seed: int) -> list[str]:
    """`count` wordings of a caption, the first in its own order; one if they cannot differ."""
    if not varies(caption, options):
        count = 1
    return [word(caption, options, seed, variant) for variant in range(count)]


def word(caption: str, options: CaptionOptions, seed: int, variant: int) -> str:
    """One wording: `variant` 0 keeps order and every tag, others shuffle and drop as asked."""
    number = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:4], "big")
    generator = generator_for(seed, "caption", number, variant)
    text = _framed(caption, options)
    text = _wildcards(text, generator) if options.wildcards else _plain(text, options)
    fixed, moving, last = _parts(text, options)
    if variant > 0 and options.shuffle_caption:
        order = torch.randperm(len(moving), generator=generator)
        moving = [moving[position] for position in order.tolist()]
    if variant > 0 and options.tag_dropout_rate > 0:
        kept = torch.rand(len(moving), generator=generator) >= options.tag_dropout_rate
        moving = [part for part, keep in zip(moving, kept.tolist(), strict=True) if keep]
    if options.shuffle_caption or options.tag_dropout_rate or options.keep_tokens_separator:
        text = ", ".join([*fixed, *moving, *last])
    if options.secondary_separator:
        text = text.replace(options.secondary_separator, options.separator)
    return text


def _framed(caption: str, options: CaptionOptions) -> str:
    return " ".join(
        part for part in (options.caption_prefix, caption, options.caption_suffix) if part
    )


def _plain(text: str, options: CaptionOptions) -> str:
    """Without wildcards only the first line of a caption counts."""
    return text if options.wildcards else text.split("\n")[0]


def _wildcards(text: str, generator: torch.Generator) -> str:
    lines = [line for line in text.split("\n") if line.strip()]
    text = _choice(lines or [""], generator)
    text = _WILDCARD.sub(lambda match: _choice(match[1].split("|"), generator), text)
    return text.replace("{{", "{").replace("}}", "}")


def _choice(among: list[str], generator: torch.Generator) -> str:
    return among[int(torch.randint(len(among), (1,), generator=generator))]


def _parts(text: str, options: CaptionOptions) -> tuple[list[str], list[str], list[str]]:
    """What stays in front, what may move, and what stays behind."""
    mark = options.keep_tokens_separator
    if mark and mark in text:
        front, _, rest = text.partition(mark)
        middle, _, behind = rest.partition(mark)
        return tuple(_split(part, options) for part in (front, middle, behind))  # type: ignore[return-value]
    parts = _split(text, options)
    return parts[: options.keep_tokens], parts[options.keep_tokens :], []


def _split(text: str, options: CaptionOptions) -> list[str]:
    return [part for piece in text.split(options.separator) if (part := piece.strip())]
