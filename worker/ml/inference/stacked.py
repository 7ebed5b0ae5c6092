"""LoRAs for single rows of a batch: each row passes through weights of its own.

y = W0·x + upᵣ·(downᵣ·x) for row r. All LoRAs of a row's set make one pair, laid side by side with
their scales folded in; rows with smaller sets are filled up with zeros, which add nothing. So rows
of different sets share one pass through the network, at the price of two thin products a layer.

Where every row's merged weight fits as well, which is so for small bases, linears use these: one
product with Wᵣ = W0 + upᵣ·downᵣ instead of three, which is what the bare base costs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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


# Rows' merged weights of all linears together may take so much.
MERGED_ROWS_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class _Pairs:
    """One layer's pairs, a row each.

    Attributes:
        down: (B, in, r) of a linear, (k · B, r, in, kh, kw) of a convolution.
        up: (B, r, out) of a linear, (k · B, out, r) of a convolution; weights and scales folded in.
    """

    down: Tensor
    up: Tensor


class StackedLoras:
    """The UNet's LoRAs row by row; all are gone when the `with` block ends."""

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device) -> None:
        """Nothing is in place yet.

        Args:
            modules: linears and convolutions of the base by canonical path.
            device: where they compute, whatever memory their weights lie in now.
        """
        self._modules = modules
        self._device = device
        self._handles: list[RemovableHandle] = []
        self._replaced: list[nn.Module] = []

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
        for module in self._replaced:
            del module.forward
        self._handles, self._replaced = [], []

    @torch.no_grad()
    def set(self, rows: Sequence[Row], *, copies: int) -> None:
        """Give each row its LoRAs, in place of those before.

        Args:
            rows: one for each picture of the batch.
            copies: how often each row stands, one beside the other, in what the UNet is given: 2
                with guidance, without the prompt and with it.

        Raises:
            ValueError: a LoRA has a module that is no pair; see `stackable`.
        """
        self.remove()
        # Rows of one request share one set, which is put together once.
        sets = {id(row): row for row in rows}
        order = [id(row) for row in rows]
        touched = {
            path: self._modules[path]
            for path in sorted(path for row in sets.values() for path in _paths(row))
        }
        linears = [module for module in touched.values() if isinstance(module, nn.Linear)]
        merged = len(rows) * sum(module.weight.nbytes for module in linears) <= MERGED_ROWS_BYTES
        for path, module in touched.items():
            found = {key: _pair_of(row, path, module, self._device) for key, row in sets.items()}
            if all(pair is None for pair in found.values()):
                continue
            if isinstance(module, nn.Conv2d):
                # The same row's copies stand side by side.
                pairs = [found[key] for key in order for _ in range(copies)]
                self._beside(module, _beside_convolution, _laid_out(pairs, module, self._device))
            elif merged and isinstance(module, nn.Linear):
                self._replace(module, _merged_rows(found, order, module, self._device))
            else:
                pairs = [found[key] for key in order]
                self._beside(module, _beside_linear, _laid_out(pairs, module, self._device))

    def _beside(self, module: nn.Module, hook: Any, pairs: _Pairs) -> None:
        self._handles.append(module.register_forward_hook(_Hook(hook, pairs)))

    def _replace(self, module: nn.Linear, weights: Tensor) -> None:
        bias = None if module.bias is None else module.bias.to(self._device)
        # Seen before the class's own, and gone with `del`.
        module.forward = partial(_rows_linear, weights, bias)  # type: ignore[method-assign]
        self._replaced.append(module)


class _Hook:
    """A forward hook with its layer's pairs."""

    def __init__(self, beside: Any, pairs: _Pairs) -> None:
        self._beside = beside
        self._pairs = pairs

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        result: Tensor = self._beside(module, args[0], output, self._pairs)
        return result


def _rows_linear(weights: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Each row by a weight of its own, (B, in, out)."""
    rows, inputs, outputs = weights.shape
    flat = x.reshape(rows, -1, inputs)
    made = torch.bmm(flat, weights) if bias is None else torch.baddbmm(bias, flat, weights)
    return made.view(*x.shape[:-1], outputs)


def _beside_linear(_: nn.Module, x: Tensor, output: Tensor, pairs: _Pairs) -> Tensor:
    rows = pairs.down.shape[0]
    hidden = torch.bmm(x.reshape(rows, -1, x.shape[-1]), pairs.down)  # (B, k · T, r)
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
    )  # (1, k · B · r, H, W)
    hidden = hidden.view(rows, rank, -1)
    flat = output.reshape(rows, output.shape[1], -1)
    return torch.baddbmm(flat, pairs.up, hidden).view_as(output)


def _paths(row: Row) -> set[str]:
    return {path for banked, _ in row for path in banked.lora.modules if path.startswith("unet.")}


def _pair_of(
    row: Row, path: str, target: nn.Module, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """One row's down (r, in[, kh, kw]) and up (out, r) for a layer, float32; None without any."""
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
        down = module.down.to(device, non_blocking=True).float()
        if module.mid is not None:
            mid = module.mid.to(device, non_blocking=True).float()
            down = torch.einsum("rskl,si->rikl", mid, down.flatten(1))
        up = module.up.to(device, non_blocking=True).float().flatten(1)
        downs.append(down.reshape(module.rank, *weight.shape[1:]))
        ups.append(up * (factor * module.scale))
    if not downs:
        return None
    return torch.cat(downs), torch.cat(ups, dim=1)


def _merged_rows(
    found: Mapping[int, tuple[Tensor, Tensor] | None],
    order: Sequence[int],
    target: nn.Linear,
    device: torch.device,
) -> Tensor:
    """Each row's merged weight, (B, in, out)."""
    pristine = target.weight.detach().to(device)
    weights = {
        key: pristine if pair is None else torch.addmm(pristine.float(), pair[1], pair[0])
        for key, pair in found.items()
    }
    return torch.stack([weights[key].to(pristine.dtype).T for key in order])


def _laid_out(
    found: Sequence[tuple[Tensor, Tensor] | None], target: nn.Module, device: torch.device
) -> _Pairs:
    """The rows' pairs filled up with zeros to the largest rank."""
    weight = target.weight
    assert isinstance(weight, Tensor), "linears and convolutions have one"
    ranks = [0 if pair is None else len(pair[0]) for pair in found]
    rank = max(ranks)
    none = (
        torch.zeros(rank, *weight.shape[1:], device=device),
        torch.zeros(weight.shape[0], rank, device=device),
    )
    downs, ups = [], []
    for pair, own in zip(found, ranks, strict=True):
        down, up = none if pair is None else pair
        missing = 0 if pair is None else rank - own
        downs.append(pad(down, (*[0] * (2 * down.ndim - 1), missing)) if missing else down)
        ups.append(pad(up, (0, missing)) if missing else up)
    down, up = (torch.stack(all_of).to(weight.dtype) for all_of in (downs, ups))
    if isinstance(target, nn.Conv2d):
        return _Pairs(down, up)
    return _Pairs(down.transpose(1, 2).contiguous(), up.transpose(1, 2).contiguous())
