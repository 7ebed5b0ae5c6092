"""Prompts to embeddings: any length, and `(words:1.2)` to weigh some of them.

Only an explicit `(…:number)` weighs; every other bracket is text, so that a caption means in a
prompt what it meant in training. `\\(`, `\\)` and `\\\\` write those signs where they would weigh.

Long prompts go through the encoders in chunks of 75 tokens between start and end, cut between
words, and are laid end to end, as is common among SDXL programs. A weight moves a token's
embedding along the line from the empty prompt's embedding at the same place: 1 leaves it, 0
makes it mean nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.ml.base_models.trigger_words import TriggerWords
from worker.ml.inference.errors import PromptInvalid

_WEIGHT = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")
_MAX_WEIGHT = 10.0

# A token id and its weight.
Token = tuple[int, float]


@dataclass(frozen=True)
class PromptEmbeds:
    """What SDXL's UNet is conditioned on; the negatives are None without guidance.

    Attributes:
        prompt_embeds: (1, 77 · chunks, width of both encoders).
        pooled_prompt_embeds: (1, projection width), from the first chunk.
    """

    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor
    negative_prompt_embeds: Tensor | None
    negative_pooled_prompt_embeds: Tensor | None


@torch.no_grad()
def encode_prompts(
    pipeline: Any,
    prompt: str,
    negative_prompt: str,
    *,
    guided: bool,
    triggers: TriggerWords | None = None,
) -> PromptEmbeds:
    """Embed a prompt and its negative by both text encoders of an SDXL pipeline.

    Without weights and up to 77 tokens, the result is to the bit that of the pipeline's own
    `encode_prompt`, where an empty negative prompt stands for None.

    Args:
        guided: whether classifier-free guidance needs the negative.
        triggers: words that the encoders have vectors of their own for.

    Raises:
        PromptInvalid: a weight is beyond ±10.
    """
    encoders = (
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    )
    words = triggers or TriggerWords()
    positive = [_chunks(tokenizer, words, parse_prompt(prompt)) for tokenizer, _ in encoders]
    zeros = not negative_prompt and bool(pipeline.config.force_zeros_for_empty_prompt)
    negative: list[list[list[Token]]] = [[[]], [[]]]
    if guided and not zeros:
        runs = parse_prompt(negative_prompt)
        negative = [_chunks(tokenizer, words, runs) for tokenizer, _ in encoders]
    # Guidance runs both in one batch, and both encoders are joined token by token: one length.
    count = max(len(chunks) for chunks in (*positive, *negative))

    embeds, pooled = _encode(encoders, positive, count)
    if not guided:
        return PromptEmbeds(embeds, pooled, None, None)
    if zeros:
        return PromptEmbeds(embeds, pooled, torch.zeros_like(embeds), torch.zeros_like(pooled))
    return PromptEmbeds(embeds, pooled, *_encode(encoders, negative, count))


def parse_prompt(prompt: str) -> list[tuple[str, float]]:
    """Split a prompt into runs of text and their weights; nested weights multiply.

    Raises:
        PromptInvalid: a weight, or a product of nested ones, is beyond ±10.
    """
    runs: list[tuple[str, float]] = []
    for text, weight in _runs(prompt, 1.0):
        if runs and runs[-1][1] == weight:
            runs[-1] = (runs[-1][0] + text, weight)
        else:
            runs.append((text, weight))
    return runs


def _runs(text: str, weight: float) -> Iterator[tuple[str, float]]:
    if abs(weight) > _MAX_WEIGHT:
        raise PromptInvalid(f"a weight of {weight:g} in the prompt is beyond ±{_MAX_WEIGHT:g}")
    plain = ""
    position = 0
    while position < len(text):
        sign = text[position]
        if sign == "\\" and text[position + 1 : position + 2] in ("(", ")", "\\"):
            plain += text[position + 1]
            position += 2
            continue
        end = _closing(text, position) if sign == "(" else None
        inside = text[position + 1 : end] if end is not None else ""
        weighs = _WEIGHT.search(inside)
        if end is None or weighs is None:
            plain += sign
            position += 1
            continue
        if plain:
            yield plain, weight
            plain = ""
        yield from _runs(inside[: weighs.start()], weight * float(weighs.group(1)))
        position = end + 1
    if plain:
        yield plain, weight


def _closing(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` closes, escaped ones not counted."""
    depth = 0
    position = start
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position
        position += 1
    return None


def _chunks(
    tokenizer: Any, triggers: TriggerWords, runs: list[tuple[str, float]]
) -> list[list[Token]]:
    """Tokens with weights in chunks of what the encoder takes less start and end; at least one."""
    size = tokenizer.model_max_length - 2
    tokens: list[Token] = []
    for text, weight in runs:
        # Longer than the encoder takes is expected here, and cut below.
        tokens.extend((token, weight) for token in triggers.ids(tokenizer, text))
    chunks = []
    while len(tokens) > size:
        cut = size
        # `</w>` ends a word; one longer than a chunk is cut where it must be.
        while cut > 0 and not _ends_word(tokenizer, tokens[cut - 1][0]):
            cut -= 1
        cut = cut or size
        chunks.append(tokens[:cut])
        tokens = tokens[cut:]
    return [*chunks, tokens]


def _ends_word(tokenizer: Any, token: int) -> bool:
    # Vectors of a trigger word are words of their own.
    return token < 0 or bool(tokenizer.convert_ids_to_tokens(token).endswith("</w>"))


def _encode(
    encoders: tuple[tuple[Any, Any], ...], chunks: list[list[list[Token]]], count: int
) -> tuple[Tensor, Tensor]:
    parts = []
    pooled: Tensor | None = None
    for (tokenizer, text_encoder), own in zip(encoders, chunks, strict=True):
        padded = own + [[]] * (count - len(own))
        hidden, first = _hidden(tokenizer, text_encoder, padded)
        parts.append(hidden)
        # CLIP with projection answers its pooled vector first; the plain one a sequence.
        if first.ndim == 2:
            pooled = first[:1]
    assert pooled is not None
    dtype = encoders[-1][1].dtype
    return torch.cat(parts, dim=-1).to(dtype), pooled


def _hidden(tokenizer: Any, text_encoder: Any, chunks: list[list[Token]]) -> tuple[Tensor, Tensor]:
    """Second-to-last hidden states, laid end to end, and the encoder's first output."""
    ids, weights = _framed(tokenizer, chunks)  # (C, 77) each
    device = text_encoder.device
    output = text_encoder(ids.to(device), output_hidden_states=True)
    hidden = output.hidden_states[-2]  # (C, 77, width)
    if bool((weights != 1).any()):
        empty_ids, _ = _framed(tokenizer, [[]])
        empty = text_encoder(empty_ids.to(device), output_hidden_states=True).hidden_states[-2]
        factor = weights.to(device).unsqueeze(-1)
        weighed = empty.float() + (hidden.float() - empty.float()) * factor
        # Tokens of weight 1 keep their own bits.
        hidden = torch.where(factor == 1, hidden, weighed.to(hidden.dtype))
    return hidden.reshape(1, -1, hidden.shape[-1]), output[0]


def _framed(tokenizer: Any, chunks: list[list[Token]]) -> tuple[Tensor, Tensor]:
    """Each chunk between start and end, padded; ids (C, 77) and weights (C, 77)."""
    length = tokenizer.model_max_length
    ids = torch.full((len(chunks), length), tokenizer.pad_token_id)
    weights = torch.ones(len(chunks), length)
    for row, chunk in enumerate(chunks):
        framed = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
        ids[row, : len(framed)] = torch.tensor(framed)
        weights[row, 1 : len(chunk) + 1] = torch.tensor([weight for _, weight in chunk])
    return ids, weights
