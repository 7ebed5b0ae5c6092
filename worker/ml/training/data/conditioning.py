"""From captions to what the UNet is conditioned on: read from the cache, or made as it trains."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from worker.ml.base_models.trigger_words import TriggerWords
from worker.ml.training.data.text import TextEncoders, TextStore


class Conditioner(Protocol):
    """Texts to token states (B, 77, 2048 on SDXL) and pooled vectors (B, 1280), on the device."""

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]: ...


class CachedText:
    """Embeddings that were made before; of the texts that were prepared only."""

    def __init__(self, store: TextStore, device: torch.device, dtype: torch.dtype) -> None:
        self._store = store
        self._device = device
        self._dtype = dtype

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = [self._store[text] for text in texts]
        tokens = torch.stack([each.tokens for each in found])
        pooled = torch.stack([each.pooled for each in found])
        return (
            tokens.to(self._device, self._dtype, non_blocking=True),
            pooled.to(self._device, self._dtype, non_blocking=True),
        )


class TrainedText:
    """The text encoders themselves, with what is trained in them; gradients flow through."""

    def __init__(self, encoders: TextEncoders, dtype: torch.dtype, triggers: TriggerWords):
        self._encoders = encoders
        self._dtype = dtype
        self._triggers = triggers

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens, pooled = self._encoders.encode(texts, self._triggers)
        return tokens.to(self._dtype), pooled.to(self._dtype)
