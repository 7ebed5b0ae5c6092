"""LoRAs for single rows of a batch: beside each layer runs a pair of matrices of each row's own.

y = W0·x + upᵣ·(downᵣ·x) for row r. All LoRAs of a row's set make one pair, laid side by side with
their scales folded in; rows with smaller sets are filled up with zeros, which add nothing. So rows
of different sets share one pass through the network, at the price of two thin products a layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from torch.utils.hooks import RemovableHandle

from worker.ml.inference.spec import LoraWeights
from worker.ml.lora_files.modules import AdapterModule, Lora, LoraModule


class _HasLora(Protocol):
    """Whatever carries a parsed LoRA of the base."""

    @property
    def lora(self) -> Lora: ...


# The LoRAs of one row and their weights.
Row = Sequence[tuple[_HasLora, LoraWeights]]


def stackable(module: AdapterModule) -> bool:
    """Whether a module's change is a pair of thin matrices whatever the weight is.

    DoRA's depends on the weight, and those of LoHa and LoKr have a full rank.
    """
    return isinstance(module, LoraModule) and module.dora_scale is None


@dataclass(frozen=True)
class _Pairs:
    """One layer's pairs, a row each.

    Attributes:
        down: (B, in, r) of a linear, (B, r, in, kh, kw) of a convolution.
        up: (B, r, out) of a linear, (B, out, r) of a convolution; weights and scales folded in.
    """

    down: Tensor
    up: Tensor


class StackedLoras:
    """The UNet's LoRAs row by row; all are gone when the `with` block ends."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        """Nothing is in place yet.

        Args:
            modules: linears and convolutions of the base by canonical path.
        """
        self._modules = modules
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Take all away; every row is the bare base's."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.no_grad()
    def set(self, rows: Sequence[Row], *, copies: int) -> None:
        """Give each row its LoRAs, in place of those before.

        Args:
            rows: one for each picture of the batch.
            copies: how often the batch comes one after another in what the UNet is given: 2 with
                guidance, whose first half has no prompt.

        Raises:
            ValueError: a LoRA has a module that is no pair; see `stackable`.
        """
        self.remove()
        paths = {
            path
            for row in rows
            for banked, _ in row
            for path in banked.lora.modules
            if path.startswith("unet.")
        }
        # Rows of one request share one set, which is put together once.
        sets = {id(row): row for row in rows}
        for path in sorted(paths):
            module = self._modules[path]
            found = {key: _pair_of(row, path, module) for key, row in sets.items()}
            if any(pair is not None for pair in found.values()):
                pairs = _laid_out([found[id(row)] for row in rows] * copies, module)
                hook = _beside_convolution if isinstance(module, nn.Conv2d) else _beside_linear
                self._handles.append(module.register_forward_hook(_Hook(hook, pairs)))


class _Hook:
    """A forward hook with its layer's pairs."""

    def __init__(self, beside: Any, pairs: _Pairs) -> None:
        self._beside = beside
        self._pairs = pairs

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        result: Tensor = self._beside(module, args[0], output, self._pairs)
        return result


def _beside_linear(_: nn.Module, x: Tensor, output: Tensor, pairs: _Pairs) -> Tensor:
    rows = x.shape[0]
    hidden = torch.bmm(x.reshape(rows, -1, x.shape[-1]), pairs.down)  # (B, T, r)
    flat = output.view(rows, -1, output.shape[-1])
    return torch.baddbmm(flat, hidden, pairs.up).view_as(output)


def _beside_convolution(module: nn.Module, x: Tensor, output: Tensor, pairs: _Pairs) -> Tensor:
    assert isinstance(module, nn.Conv2d), "registered for convolutions alone"
    rows, rank = pairs.down.shape[:2]
    # Rows become groups of one convolution, so that each meets its own matrix.
    hidden = conv2d(
        x.reshape(1, -1, *x.shape[2:]),
        pairs.down.flatten(0, 1),
        None,
        module.stride,
        module.padding,
        module.dilation,
        rows,
    )  # (1, B · r, H, W)
    hidden = hidden.view(rows, rank, -1)
    flat = output.reshape(rows, output.shape[1], -1)
    return torch.baddbmm(flat, pairs.up, hidden).view_as(output)


def _pair_of(row: Row, path: str, target: nn.Module) -> tuple[Tensor, Tensor] | None:
    """One row's down (r, in[, kh, kw]) and up (out, r) for a layer; None without any."""
    weight = target.weight
    assert isinstance(weight, Tensor), "linears and convolutions have one"
    downs, ups = [], []
    for banked, weights in row:
        module = banked.lora.modules.get(path)
        factor = weights.of(path)
        if module is None or factor == 0.0:
            continue
        if not isinstance(module, LoraModule) or module.dora_scale is not None:
            raise ValueError(f"{path}: only plain pairs can be stacked")
        down = module.down.to(weight.device, non_blocking=True).float()
        if module.mid is not None:
            mid = module.mid.to(weight.device, non_blocking=True).float()
            down = torch.einsum("rskl,si->rikl", mid, down.flatten(1))
        up = module.up.to(weight.device, non_blocking=True).float().flatten(1)
        downs.append(down.reshape(module.rank, *weight.shape[1:]))
        ups.append(up * (factor * module.scale))
    if not downs:
        return None
    return torch.cat(downs).to(weight.dtype), torch.cat(ups, dim=1).to(weight.dtype)


def _laid_out(found: Sequence[tuple[Tensor, Tensor] | None], target: nn.Module) -> _Pairs:
    """The rows' pairs filled up with zeros to the largest rank."""
    weight = target.weight
    assert isinstance(weight, Tensor), "linears and convolutions have one"
    ranks = [0 if pair is None else len(pair[0]) for pair in found]
    rank = max(ranks)
    none = weight.new_zeros(rank, *weight.shape[1:]), weight.new_zeros(weight.shape[0], rank)
    downs, ups = [], []
    for pair, own in zip(found, ranks, strict=True):
        down, up = none if pair is None else pair
        missing = 0 if pair is None else rank - own
        downs.append(pad(down, (*[0] * (2 * down.ndim - 1), missing)) if missing else down)
        ups.append(pad(up, (0, missing)) if missing else up)
    down, up = torch.stack(downs), torch.stack(ups)  # (B, r, in, …), (B, out, r)
    if isinstance(target, nn.Conv2d):
        return _Pairs(down, up)
    return _Pairs(down.transpose(1, 2).contiguous(), up.transpose(1, 2).contiguous())
