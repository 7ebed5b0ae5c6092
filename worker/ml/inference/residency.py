"""Which of a base model's networks are on the device now, and which wait in host memory."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from worker.ml.inference.memory import Placement

ENCODERS = frozenset({"text_encoder", "text_encoder_2"})
_HOST = torch.device("cpu")

# Brings a network's weights to a device, in place.
Move = Callable[[nn.Module, torch.device], object]


class Residency:
    """Moves networks as the plan says; whoever uses one asks for it first.

    Weights move with whatever LoRAs were written into them, so a move changes no picture.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        device: torch.device,
        *,
        move: Move = nn.Module.to,
    ) -> None:
        """Take over networks that all lie in host memory."""
        self._networks = networks
        self._device = device
        self._move = move
        self._there: set[str] = set()
        self._placement: Placement = "resident"

    @property
    def placement(self) -> Placement:
        """How networks share the device."""
        return self._placement

    @property
    def there(self) -> frozenset[str]:
        """Names of the networks on the device."""
        return frozenset(self._there)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights on the device."""
        return sum(weight_bytes(self._networks[name]) for name in self._there)

    def settle(self, placement: Placement) -> None:
        """Share the device in another way from now on."""
        self._placement = placement
        if placement == "resident":
            self.bring(*self._networks)

    def bring(self, *names: str) -> None:
        """Have these networks on the device; those that the placement sends away go first."""
        if self._placement == "one_at_a_time":
            away = self._there - set(names)
        elif self._placement == "encoders_parked" and not ENCODERS & set(names):
            away = self._there & ENCODERS
        else:
            away = set()
        # In the order of the networks, so that every run moves alike.
        for name in [name for name in self._networks if name in away]:
            self._move(self._networks[name], _HOST)
            self._there.remove(name)
        for name in [name for name in self._networks if name in set(names) - self._there]:
            self._move(self._networks[name], self._device)
            self._there.add(name)


def weight_bytes(network: nn.Module) -> int:
    """Bytes of a network's parameters."""
    return sum(parameter.nbytes for parameter in network.parameters())
