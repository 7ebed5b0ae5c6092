"""Captions as embeddings: each wording encoded once by both text encoders, and kept on disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.ml.training.cache import TensorCache, cache_key

ENCODE_BATCH = 32
MAX_TOKENS = 77


@dataclass(frozen=True)
class TextEmbedding:
    """What SDXL's UNet is conditioned on.

    Attributes:
        tokens: both encoders' second-to-last states side by side, (77, 2048 on SDXL).
        pooled: the second encoder's projection, (1280 on SDXL,).
    """

    tokens: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class TextEncoders:
    """Both tokenizers and encoders of an SDXL base."""

    tokenizers: tuple[Any, Any]
    encoders: tuple[Any, Any]

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Embed texts, each cut at 77 tokens."""
        states: list[Tensor] = []
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            ids = tokenizer(
                list(texts),
                padding="max_length",
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            ).input_ids
            output = encoder(ids.to(encoder.device), output_hidden_states=True)
            states.append(output.hidden_states[-2])  # (B, 77, width)
        pooled = output.text_embeds  # of the second encoder, (B, projection)
        # Kept in the encoders' own precision: more digits would be made up.
        tokens = torch.cat(states, dim=-1).cpu()
        return [
            # Copies: a row of the batch would keep the whole batch in memory.
            TextEmbedding(row.clone(), vector.clone())
            for row, vector in zip(tokens, pooled.cpu(), strict=True)
        ]


def embed_texts(
    texts: Sequence[str],
    *,
    encoders: Callable[[], TextEncoders],
    encoders_sha256: str,
    cache: TensorCache,
    on_done: Callable[[int], None],
) -> dict[str, TextEmbedding]:
    """The embedding of each distinct text, from the cache where it is there.

    Args:
        encoders: loads the text encoders; called only if something must be encoded.
        encoders_sha256: of their weights, part of the cache's key.
        on_done: told after each batch how many texts are done.
    """
    found: dict[str, TextEmbedding] = {}
    missing: list[str] = []
    for text in dict.fromkeys(texts):
        stored = cache.get(cache_key("text", encoders_sha256, text))
        if stored is not None:
            found[text] = TextEmbedding(stored["tokens"], stored["pooled"])
        else:
            missing.append(text)
    on_done(len(found))
    for start in range(0, len(missing), ENCODE_BATCH):
        part = missing[start : start + ENCODE_BATCH]
        for text, embedding in zip(part, encoders().encode(part), strict=True):
            cache.put(
                cache_key("text", encoders_sha256, text),
                {"tokens": embedding.tokens, "pooled": embedding.pooled},
            )
            found[text] = embedding
        on_done(len(found))
    return found
