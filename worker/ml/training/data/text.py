"""Captions as embeddings: each wording encoded once by both text encoders, and kept on disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.ml.base_models.trigger_words import TriggerWords
from worker.ml.training.data.cache import TensorCache, cache_key
from worker.ml.training.errors import EmbeddingsNotFinite
from worker.ml.training.parallel import Group

ENCODE_BATCH = 32
MAX_TOKENS = 77


@dataclass(frozen=True)
class TextEmbedding:
    """What SDXL's UNet is conditioned on.

    Attributes:
        tokens: both encoders' second-to-last states side by side, (77, 2048 on SDXL).
        pooled: the second encoder's projection, (1280 on SDXL,).
        cut: whether the text was longer than the encoders read.
    """

    tokens: Tensor
    pooled: Tensor
    cut: bool = False

    def to(self, device: torch.device) -> "TextEmbedding":
        """The same on another device."""
        return TextEmbedding(self.tokens.to(device), self.pooled.to(device), self.cut)


@dataclass(frozen=True)
class TextEncoders:
    """Both tokenizers and encoders of an SDXL base."""

    tokenizers: tuple[Any, Any]
    encoders: tuple[Any, Any]

    def encode(
        self, texts: Sequence[str], triggers: TriggerWords | None = None
    ) -> tuple[Tensor, Tensor]:
        """Embed texts, each cut at 77 tokens: (B, 77, 2048 on SDXL) and (B, 1280 on SDXL)."""
        triggers = triggers or TriggerWords()
        states: list[Tensor] = []
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            ids = torch.tensor([_framed(tokenizer, triggers, text) for text in texts])
            output = encoder(ids.to(encoder.device), output_hidden_states=True)
            states.append(output.hidden_states[-2])  # (B, 77, width)
        return torch.cat(states, dim=-1), output.text_embeds  # of the second encoder

    def is_cut(self, text: str) -> bool:
        """Whether a text has more tokens than are read."""
        # Beside start and end, a token has at least one character.
        if len(text) <= MAX_TOKENS - 2:
            return False
        ids = self.tokenizers[0](text, truncation=False, verbose=False).input_ids
        return len(ids) > MAX_TOKENS

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """The same one by one on the CPU, in the encoders' own precision."""
        tokens, pooled = self.encode(texts)
        return [
            # Copies: a row of the batch would keep the whole batch in memory.
            TextEmbedding(row.clone(), vector.clone(), self.is_cut(text))
            for text, row, vector in zip(texts, tokens.cpu(), pooled.cpu(), strict=True)
        ]


def _framed(tokenizer: Any, triggers: TriggerWords, text: str) -> list[int]:
    """77 tokens: start, the text's first ones, end, and padding."""
    ids = triggers.ids(tokenizer, text)[: MAX_TOKENS - 2]
    padding = [tokenizer.pad_token_id] * (MAX_TOKENS - 2 - len(ids))
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding]


class TextStore:
    """Every text's embedding, from the cache's disk, the host or the device."""

    def __init__(self, cache: TensorCache, keys: dict[str, str], device: torch.device | None):
        """`keys` by text; `device` None reads from the disk each time."""
        self._cache = cache
        self._keys = keys
        self._kept = {} if device is None else {t: self._read(t).to(device) for t in keys}

    def __getitem__(self, text: str) -> TextEmbedding:
        kept = self._kept.get(text)
        return self._read(text) if kept is None else kept

    def __len__(self) -> int:
        return len(self._keys)

    def _read(self, text: str) -> TextEmbedding:
        found = self._cache.get(self._keys[text])
        if found is None:
            raise OSError(f"embedding {self._keys[text]} is gone from the cache, or damaged")
        return TextEmbedding(found["tokens"], found["pooled"], bool(found["cut"]))


def embed_texts(
    texts: Sequence[str],
    *,
    encoders: Callable[[], TextEncoders],
    encoders_sha256: str,
    cache: TensorCache,
    group: Group,
    on_done: Callable[[int], None],
) -> dict[str, str]:
    """See that the embedding of each distinct text is in the cache; their keys there, by text.

    Args:
        encoders: loads the text encoders; called only if something must be encoded.
        encoders_sha256: of their weights, part of the cache's keys.
        on_done: told after each batch how many texts are done.

    Raises:
        EmbeddingsNotFinite: naming the text.
    """
    keys = {text: cache_key("text", encoders_sha256, text) for text in dict.fromkeys(texts)}
    every = list(keys)
    # Made and parted before anything is left out, as for latents.
    batches = [every[start : start + ENCODE_BATCH] for start in range(0, len(every), ENCODE_BATCH)]

    def encode(parts: list[list[str]]) -> None:
        lacking = [part for part in parts if not all(cache.has(keys[text]) for text in part)]
        for number, part in enumerate(lacking):
            for text, embedding in zip(part, encoders().embed(part), strict=True):
                if not torch.isfinite(embedding.tokens).all():
                    raise EmbeddingsNotFinite(f"{text!r} became NaN or infinite in an encoder")
                cut = torch.tensor(embedding.cut)
                stored = {"tokens": embedding.tokens, "pooled": embedding.pooled, "cut": cut}
                cache.put(keys[text], stored)
            on_done(number)

    encode(batches[group.rank :: group.size])
    group.wait()
    encode(batches)
    return keys
