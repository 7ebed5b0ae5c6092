"""Token vectors of one's own for a trigger word, in both text encoders (Gal et al. 2022).

The word stands in texts as it always did; just before tokenizing it is replaced by placeholders,
one for each vector. The encoders' own tables stay as they are: a placeholder's number lies beyond
them, and its vector comes from beside them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TriggerWord:
    """A word and what stands for it.

    Attributes:
        placeholders: one token for each vector.
    """

    word: str
    placeholders: tuple[str, ...]

    @classmethod
    def of(cls, word: str, vectors: int) -> "TriggerWord":
        """Placeholders that no text holds by chance."""
        return cls(word, tuple(f"<|{word}-{number}|>" for number in range(vectors)))

    def place(self, text: str) -> str:
        """The text with placeholders where the word stands alone, whatever its case."""
        pattern = rf"(?<!\w){re.escape(self.word)}(?!\w)"
        return re.sub(pattern, lambda _: " ".join(self.placeholders), text, flags=re.IGNORECASE)


class TriggerEmbedding(nn.Module):
    """A frozen table of token vectors with a few more behind it.

    Attributes:
        vectors: those of the placeholders, (count, width), float32.
    """

    def __init__(self, table: nn.Module, first: int, vectors: Tensor) -> None:
        """`first` is the number of the first placeholder."""
        super().__init__()
        self.table = table
        self.first = first
        self.vectors = nn.Parameter(vectors)

    @property
    def weight(self) -> Tensor:
        """The frozen table."""
        weight = self.table.weight
        assert isinstance(weight, Tensor), "a table of vectors has a weight"
        return weight

    def forward(self, ids: Tensor) -> Tensor:
        own = ids - self.first
        known = self.table(torch.where(own >= 0, torch.zeros_like(ids), ids))
        beside = self.vectors[own.clamp(min=0)].to(known.dtype)
        return torch.where((own >= 0).unsqueeze(-1), beside, known)


def add_trigger(
    word: TriggerWord,
    tokenizers: Sequence[Any],
    encoders: Sequence[nn.Module],
    vectors: Sequence[Tensor] | None = None,
) -> list[TriggerEmbedding]:
    """Teach tokenizers and encoders the placeholders; take back with `remove_trigger`.

    Args:
        vectors: (count, width) of each encoder; None starts each from the word's own tokens.
    """
    tables: list[TriggerEmbedding] = []
    for number, (tokenizer, encoder) in enumerate(zip(tokenizers, encoders, strict=True)):
        parent = _embeddings(encoder)
        table = parent.token_embedding
        assert isinstance(table, nn.Module), "CLIP's embeddings hold a table of tokens"
        weight = table.weight
        assert isinstance(weight, Tensor), "a table of vectors has a weight"
        if vectors is None:
            ids = tokenizer(word.word, add_special_tokens=False).input_ids
            known = weight.detach().float()[torch.tensor(ids, device=weight.device)]
            count = len(word.placeholders)
            fresh = known[torch.arange(count, device=weight.device) % len(known)].clone()
        else:
            fresh = vectors[number].to(weight.device).float()
        tokenizer.add_tokens(list(word.placeholders))
        first = int(tokenizer.convert_tokens_to_ids(word.placeholders[0]))
        added = TriggerEmbedding(table, first, fresh)
        parent.token_embedding = added
        tables.append(added)
    return tables


def remove_trigger(encoders: Sequence[nn.Module]) -> None:
    """Give the encoders their own tables back."""
    for encoder in encoders:
        parent = _embeddings(encoder)
        if isinstance(parent.token_embedding, TriggerEmbedding):
            parent.token_embedding = parent.token_embedding.table


def trigger_vectors(tables: Mapping[str, TriggerEmbedding]) -> dict[str, Tensor]:
    """Copies of the vectors by text encoder, (count, width), float32, on the CPU."""
    return {name: table.vectors.detach().float().cpu().clone() for name, table in tables.items()}


def _embeddings(encoder: nn.Module) -> Any:
    # CLIPTextModel lost this level in transformers 5.6; the one with a projection kept it.
    inner = getattr(encoder, "text_model", encoder)
    return inner.embeddings
