"""A running average of the trained weights, which is measured and saved in their place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RunningAverage:
    """average ← decay · average + (1 - decay) · weights, after each step.

    In the first steps the decay is (1 + step) / (10 + step) if that is less, so that the start,
    where a LoRA changes nothing, is soon forgotten (as in Polyak averaging of diffusion models).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self._average = {name: value.detach().clone() for name, value in parameters.items()}

    def update(self, step: int) -> None:
        """After a step (from 1)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self._average.values()),
            [value.detach() for value in self._parameters.values()],
            1 - decay,
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The average stands in the parameters inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def tensors(self) -> dict[str, Tensor]:
        """The average by the parameters' names, for the state."""
        return self._average

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take an average back from a state."""
        for name, value in self._average.items():
            value.copy_(tensors[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            held = parameter.detach().clone()
            parameter.copy_(self._average[name])
            self._average[name].copy_(held)
