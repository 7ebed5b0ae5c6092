"""Token vectors of one's own for a trigger word, in both text encoders (Gal et al. 2022).

The word stands in texts as it always did. Where it stands alone its tokens are replaced by
numbers below zero, one for each vector: no vocabulary has such numbers, and the second encoder,
which finds a text's end by its largest number, is not misled.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TriggerWords:
    """Words and how many vectors stand for each; the first's vectors come first."""

    words: tuple[tuple[str, int], ...] = ()

    def ids(self, tokenizer: Any, text: str) -> list[int]:
        """A text's tokens without start and end; -1 is the first vector, -2 the second."""
        if not self.words:
            return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        # CLIP's tokens never span words, so the pieces between are what they are in the whole.
        pattern = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word, _ in self.words)
        found: list[int] = []
        for piece in re.split(f"({pattern})", text, flags=re.IGNORECASE):
            own = self._vectors_of(piece)
            if own is not None:
                found += own
            elif piece.strip():
                ids = tokenizer(piece, add_special_tokens=False, verbose=False).input_ids
                found += list(ids)
        return found

    def _vectors_of(self, piece: str) -> list[int] | None:
        first = 0
        for word, count in self.words:
            if piece.casefold() == word.casefold():
                return [-(first + number + 1) for number in range(count)]
            first += count
        return None


class TriggerEmbedding(nn.Module):
    """A frozen table of token vectors with a few of one's own under numbers below zero.

    Attributes:
        vectors: (count, width), float32.
    """

    def __init__(self, table: nn.Module, vectors: Tensor) -> None:
        super().__init__()
        self.table = table
        self.vectors = nn.Parameter(vectors)

    @property
    def weight(self) -> Tensor:
        """The frozen table."""
        weight = self.table.weight
        assert isinstance(weight, Tensor), "a table of vectors has a weight"
        return weight

    def forward(self, ids: Tensor) -> Tensor:
        known = self.table(ids.clamp(min=0))
        beside = self.vectors[(-ids - 1).clamp(min=0)].to(known.dtype)
        return torch.where((ids < 0).unsqueeze(-1), beside, known)


def add_trigger(encoder: nn.Module, vectors: Tensor) -> TriggerEmbedding:
    """Put vectors (count, width) beside an encoder's table of tokens."""
    parent = _embeddings(encoder)
    added = TriggerEmbedding(
        parent.token_embedding, vectors.to(parent.token_embedding.weight.device)
    )
    parent.token_embedding = added
    return added


def vectors_like(tokenizer: Any, encoder: nn.Module, word: str, count: int) -> Tensor:
    """Vectors to begin with: the word's own tokens', again and again, (count, width), float32."""
    weight = _embeddings(encoder).token_embedding.weight.detach().float()
    ids = tokenizer(word, add_special_tokens=False).input_ids
    own = weight[torch.tensor(ids, device=weight.device)]
    return own[torch.arange(count, device=weight.device) % len(own)].clone()


@contextmanager
def triggers_in_place(
    encoders: Mapping[str, nn.Module], vectors: Mapping[str, Sequence[Tensor]]
) -> Iterator[None]:
    """Inside the block the encoders know these words' vectors, in the order of the words."""
    parents = [_embeddings(encoders[name]) for name, own in vectors.items() if own]
    tables = [parent.token_embedding for parent in parents]
    try:
        for name, own in vectors.items():
            if own:
                add_trigger(encoders[name], torch.cat([each.float() for each in own]))
        yield
    finally:
        for parent, table in zip(parents, tables, strict=True):
            parent.token_embedding = table


def trigger_vectors(tables: Mapping[str, TriggerEmbedding]) -> dict[str, Tensor]:
    """Copies of the vectors by text encoder, (count, width), float32, on the CPU."""
    return {name: table.vectors.detach().float().cpu().clone() for name, table in tables.items()}


def _embeddings(encoder: nn.Module) -> Any:
    # CLIPTextModel lost this level in transformers 5.6; the one with a projection kept it.
    return getattr(encoder, "text_model", encoder).embeddings
