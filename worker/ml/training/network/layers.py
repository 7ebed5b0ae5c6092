"""The trained layers: a frozen linear or convolution with a change of low rank beside it.

The change has the same matrices as the file will have, in float32, and computes in the precision
of what passes through. LoRA goes around the weight, x → W·x + s·up·(down·x); DoRA scales that sum;
LoHa and LoKr add a product with ΔW. Nowhere is ΔW added to W itself, whose few digits in half
precision would round it away.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, dropout, linear

from worker.ml.lora_files.modules import AdapterModule, LohaModule, LokrModule, LoraModule


@dataclass(frozen=True)
class Dropouts:
    """Chances that a low-rank neuron, a rank of a picture, or the whole change is left out."""

    neuron: float = 0.0
    rank: float = 0.0
    module: float = 0.0


class Adapted(nn.Module, ABC):
    """A frozen module and its trained change; subclasses say of which kind.

    Attributes:
        base: linear or convolution, plain or quantised.
        alpha: as the file will say it.
        enabled: False answers as the base alone would.
    """

    def __init__(self, base: nn.Module, alpha: float, dropouts: Dropouts) -> None:
        super().__init__()
        self.base = base
        self.alpha = alpha
        self.dropouts = dropouts
        self.enabled = True
        convolution = getattr(base, "convolution", None)
        if isinstance(base, nn.Conv2d):
            convolution = (base.stride, base.padding, base.dilation, base.groups)
        # Stride, padding, dilation and groups; None for a linear.
        self.convolution: Any = convolution

    @property
    def weight(self) -> Tensor:
        """The frozen weight, for code that asks a layer for its dtype or device."""
        return cast(Tensor, self.base.weight)

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        return cast("Tensor | None", self.base.bias)

    def forward(self, values: Tensor) -> Tensor:
        if not self.enabled or self._sits_out():
            return cast(Tensor, self.base(values))
        return self.changed(values)

    @abstractmethod
    def changed(self, values: Tensor) -> Tensor:
        """The frozen module's answer with the change."""

    @abstractmethod
    def matrices(self) -> dict[str, nn.Parameter]:
        """What is trained, by the endings of kohya's layout."""

    @abstractmethod
    def exported(self) -> AdapterModule:
        """The change as a file holds it, float32 copies on the CPU."""

    @abstractmethod
    def delta_norm(self) -> Tensor:
        """‖ΔW‖ (Frobenius; DoRA's before its norm), a scalar on the device."""

    @abstractmethod
    def one_factor(self) -> nn.Parameter:
        """A matrix that ΔW is proportional to."""

    def _sits_out(self) -> bool:
        chance = self.dropouts.module
        return self.training and chance > 0 and float(torch.rand(())) < chance

    def _copies(self) -> dict[str, Tensor]:
        return {
            name: matrix.detach().float().cpu().clone() for name, matrix in self.matrices().items()
        }

    def _product(self, values: Tensor, weight: Tensor) -> Tensor:
        """With a weight of the base's shape, but no bias."""
        weight = weight.to(values.dtype)
        if self.convolution is None:
            return linear(values, weight)
        return conv2d(values, weight, None, *self.convolution)


class _LoraLinear(torch.autograd.Function):
    """A frozen linear and its LoRA in one node of the graph: y = x Wᵀ + b + s·(x downᵀ) upᵀ.

    A composition keeps a node for each product, cast and view, whose keeping takes as long as the
    small products themselves. Kept for backward: x, x downᵀ, and the matrices as they were cast.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        flat = values.reshape(-1, values.shape[-1])
        down = down.to(flat.dtype)
        # Scaled while it is small.
        up = (up * scale).to(flat.dtype)
        low = flat @ down.t()
        answer = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
        answer.addmm_(low, up.t())
        ctx.save_for_backward(flat, low, weight, down, up)
        ctx.scale = scale
        return answer.view(*values.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, low, weight, down, up = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        for_low = gradient @ up
        for_up = (gradient.t() @ low).float().mul_(ctx.scale)
        for_down = (for_low.t() @ flat).float()
        for_values = None
        if ctx.needs_input_grad[0]:
            for_values = gradient @ weight
            for_values.addmm_(for_low, down)
            for_values = for_values.view(*gradients[0].shape[:-1], -1)
        return for_values, None, None, for_down, for_up, None


def lora_linear(values: Tensor, base: nn.Linear, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """A frozen linear's answer with LoRA, (..., out).

    Args:
        values: (..., in), in the precision of the base's weight.
        down, up: (rank, in) and (out, rank), float32.
    """
    return cast(Tensor, _LoraLinear.apply(values, base.weight, base.bias, down, up, scale))


class LoraLayer(Adapted):
    """LoRA and LoCon: s · up @ down (Hu et al. 2021); with magnitudes, DoRA (Liu et al. 2024)."""

    def __init__(
        self, base: nn.Module, rank: int, alpha: float, dropouts: Dropouts, *, magnitude: bool
    ) -> None:
        super().__init__(base, alpha, dropouts)
        weight = self.weight
        ones = (1,) * (weight.ndim - 2)
        where = weight.device
        self.down = nn.Parameter(torch.zeros(rank, *weight.shape[1:], device=where))
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank, *ones, device=where))
        self.scale = alpha / rank
        self._drops = bool(dropouts.neuron or dropouts.rank)
        self.magnitude: nn.Parameter | None = None
        if magnitude:
            norms = weight.float().flatten(1).norm(dim=1).view(-1, 1, *ones)
            self.magnitude = nn.Parameter(norms)

    @property
    def can_join(self) -> bool:
        """Whether it is a linear without a bias, and plain LoRA."""
        plain = isinstance(self.base, nn.Linear) and self.magnitude is None
        return plain and self.bias is None

    @property
    def goes_plain(self) -> bool:
        """Whether this pass is y = x Wᵀ + b + s·(x downᵀ) upᵀ and nothing else."""
        sits_out = self.training and (self._drops or self.dropouts.module > 0)
        plain = isinstance(self.base, nn.Linear) and self.magnitude is None
        return plain and self.enabled and not sits_out

    def matrices(self) -> dict[str, nn.Parameter]:
        found = {"lora_down.weight": self.down, "lora_up.weight": self.up}
        return found if self.magnitude is None else {**found, "dora_scale": self.magnitude}

    def exported(self) -> LoraModule:
        copies = self._copies()
        return LoraModule(
            copies["lora_down.weight"],
            copies["lora_up.weight"],
            self.alpha,
            copies.get("dora_scale"),
        )

    def delta_norm(self) -> Tensor:
        down, up = self.down.flatten(1), self.up.flatten(1)
        # ‖up·down‖² = tr((upᵀup)(down·downᵀ)), without making the product.
        squared = ((up.t() @ up) * (down @ down.t())).sum()
        return self.scale * squared.clamp(min=0).sqrt()

    def one_factor(self) -> nn.Parameter:
        return self.up

    def changed(self, values: Tensor) -> Tensor:
        if self.goes_plain:
            return lora_linear(values, cast(nn.Linear, self.base), self.down, self.up, self.scale)
        low = self._low(values)
        if self.magnitude is not None:
            return self._rescaled(values, low)
        return cast(Tensor, self.base(values)) + self._up(low)

    def _up(self, low: Tensor) -> Tensor:
        up = self.up.to(low.dtype)
        return (linear(low, up) if self.convolution is None else conv2d(low, up)) * self.scale

    def _low(self, values: Tensor) -> Tensor:
        """down · x, with what is dropped: (..., rank) or (B, rank, h, w)."""
        low = self._product(values, self.down)
        if not self.training:
            return low
        if self.dropouts.neuron:
            low = dropout(low, self.dropouts.neuron)
        if self.dropouts.rank:
            rank = self.down.shape[0]
            shape = [low.shape[0], *([1] * (low.ndim - 1))]
            shape[-1 if self.convolution is None else 1] = rank
            kept = (torch.rand(shape, device=low.device) >= self.dropouts.rank).to(low.dtype)
            low = low * kept / (1 - self.dropouts.rank)
        return low

    def _rescaled(self, values: Tensor, low: Tensor) -> Tensor:
        """m / ‖W + ΔW‖ · (W·x + ΔW·x) + b; as in the paper, no gradient through the norm."""
        assert self.magnitude is not None, "only DoRA comes here"
        frozen = self.base(values)
        change = self._up(low)
        shape = (-1,) if self.convolution is None else (1, -1, 1, 1)
        factor = (self.magnitude.flatten() / self._norms()).view(shape).to(frozen.dtype)
        if self.bias is None:
            return (frozen + change) * factor
        bias = self.bias.view(shape)
        return (frozen - bias + change) * factor + bias

    @torch.no_grad()
    def _norms(self) -> Tensor:
        """‖W + s·up·down‖ of each row, (out,), float32, without making the sum.

        ‖w + s·u·D‖² = ‖w‖² + 2s·(w Dᵀ)·u + s²·u (D Dᵀ)·u for each row w of W and u of up.
        """
        weight = self.weight.float().flatten(1)
        down, up = self.down.flatten(1), self.up.flatten(1)
        crossed = ((weight @ down.t()) * up).sum(dim=1)
        squared = ((up @ (down @ down.t())) * up).sum(dim=1)
        norms = weight.square().sum(dim=1) + 2 * self.scale * crossed
        return (norms + self.scale**2 * squared).clamp(min=1e-24).sqrt()


class LohaLayer(Adapted):
    """LoHa: ΔW = s · (w1_a @ w1_b) ∘ (w2_a @ w2_b) (Hyeon-Woo et al. 2021)."""

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropouts: Dropouts) -> None:
        super().__init__(base, alpha, dropouts)
        rows, columns = self.weight.flatten(1).shape
        where = self.weight.device
        self.w1_a = nn.Parameter(torch.zeros(rows, rank, device=where))
        self.w1_b = nn.Parameter(torch.zeros(rank, columns, device=where))
        self.w2_a = nn.Parameter(torch.zeros(rows, rank, device=where))
        self.w2_b = nn.Parameter(torch.zeros(rank, columns, device=where))
        self.scale = alpha / rank

    def matrices(self) -> dict[str, nn.Parameter]:
        return {
            "hada_w1_a": self.w1_a,
            "hada_w1_b": self.w1_b,
            "hada_w2_a": self.w2_a,
            "hada_w2_b": self.w2_b,
        }

    def exported(self) -> LohaModule:
        copies = self._copies()
        return LohaModule(
            **{name.removeprefix("hada_"): copy for name, copy in copies.items()},
            alpha=self.alpha,
        )

    def delta_norm(self) -> Tensor:
        return self.scale * ((self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)).norm()

    def one_factor(self) -> nn.Parameter:
        return self.w2_a

    def changed(self, values: Tensor) -> Tensor:
        delta = self.scale * (self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)
        answer = self.base(values)
        return answer + self._product(values, delta.view(self.weight.shape))


class LokrLayer(Adapted):
    """LoKr: ΔW = s · w1 ⊗ w2, w2 a product where that is smaller (Yeh et al. 2023)."""

    def __init__(
        self, base: nn.Module, rank: int, alpha: float, factor: int, dropouts: Dropouts
    ) -> None:
        super().__init__(base, alpha, dropouts)
        shape, where = self.weight.shape, self.weight.device
        outer_rows, inner_rows = split_side(shape[0], factor)
        outer_columns, inner_columns = split_side(shape[1], factor)
        self.inner = (inner_rows, inner_columns, *shape[2:])
        width = inner_columns * shape[2:].numel()
        self.w1 = nn.Parameter(torch.zeros(outer_rows, outer_columns, device=where))
        # A product only where it has fewer numbers than the whole.
        whole = rank >= max(inner_rows, inner_columns) / 2
        self.w2: nn.Parameter | None = None
        self.w2_a: nn.Parameter | None = None
        self.w2_b: nn.Parameter | None = None
        if whole:
            self.w2 = nn.Parameter(torch.zeros(self.inner, device=where))
        else:
            self.w2_a = nn.Parameter(torch.zeros(inner_rows, rank, device=where))
            self.w2_b = nn.Parameter(torch.zeros(rank, width, device=where))
        self.scale = 1.0 if whole else alpha / rank

    def matrices(self) -> dict[str, nn.Parameter]:
        named = {
            "lokr_w1": self.w1,
            "lokr_w2": self.w2,
            "lokr_w2_a": self.w2_a,
            "lokr_w2_b": self.w2_b,
        }
        return {name: matrix for name, matrix in named.items() if matrix is not None}

    def exported(self) -> LokrModule:
        copies = {name.removeprefix("lokr_"): copy for name, copy in self._copies().items()}
        return LokrModule(alpha=self.alpha, **copies)

    def delta_norm(self) -> Tensor:
        # ‖w1 ⊗ w2‖ = ‖w1‖·‖w2‖.
        return self.scale * self.w1.norm() * self._second().norm()

    def one_factor(self) -> nn.Parameter:
        return self.w1

    def changed(self, values: Tensor) -> Tensor:
        second = self._second()
        answer = self.base(values)
        if self.convolution is not None:
            first = self.w1.view(*self.w1.shape, 1, 1)
            delta = self.scale * torch.kron(first, second.view(self.inner).contiguous())
            return answer + self._product(values, delta)
        # (w1 ⊗ w2) x without making the product: x as a table (in₁, in₂), w2 along one side and
        # w1 along the other.
        table = values.unflatten(-1, (self.w1.shape[1], self.inner[1]))
        half = linear(table, second.to(values.dtype))  # (..., in₁, out₂)
        first = self.w1.to(values.dtype)
        both = linear(half.transpose(-1, -2), first).transpose(-1, -2)  # (..., out₁, out₂)
        return answer + self.scale * both.flatten(-2)

    def _second(self) -> Tensor:
        if self.w2 is not None:
            return self.w2
        assert self.w2_a is not None, "w2 is whole or a product"
        assert self.w2_b is not None, "w2 is whole or a product"
        return self.w2_a @ self.w2_b


def split_side(side: int, factor: int) -> tuple[int, int]:
    """A side as (smaller, larger) divisors: `factor` and the rest, or as near to square as it goes.

    A factor that does not divide the side gives its nearest divisor below.
    """
    limit = side if factor < 0 else min(factor, side)
    divisors = [n for n in range(1, int(side**0.5) + 1) if side % n == 0]
    if factor > 0 and side % factor == 0:
        return tuple(sorted((factor, side // factor)))  # type: ignore[return-value]
    smaller = max(n for n in divisors if n <= limit)
    return smaller, side // smaller


def load_matrices(layer: Adapted, stored: AdapterModule) -> str | None:
    """Copy a file's matrices into a layer; what does not fit, in words, or None."""
    tensors: Mapping[str, Tensor] = dict(stored.tensors())
    if stored.dora_scale is not None:
        tensors = {**tensors, "dora_scale": stored.dora_scale}
    mine = layer.matrices()
    if tensors.keys() != mine.keys():
        return f"it has {', '.join(sorted(tensors))}; {', '.join(sorted(mine))} are trained"
    for name, matrix in mine.items():
        if tensors[name].numel() != matrix.numel() or tensors[name].shape[0] != matrix.shape[0]:
            found = tuple(tensors[name].shape)
            return f"its {name} is {found}; {tuple(matrix.shape)} is trained"
    # The file's scale may be another: what is trained on must be the same change.
    factor = stored.scale / layer.exported().scale
    with torch.no_grad():
        for name, matrix in mine.items():
            values = tensors[name].float().reshape(matrix.shape)
            grown = name in ("lora_up.weight", "hada_w2_a", "lokr_w1")
            matrix.copy_(values * factor if grown else values)
    return None
