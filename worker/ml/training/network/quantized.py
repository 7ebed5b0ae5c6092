"""Frozen weights in one byte a number: half the memory of bfloat16, for cards that are small.

Each row of a weight (each output) has its own scale, the largest size in it. Weights are opened
for each product and closed again; backward opens them anew instead of keeping them.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torch.nn.grad import conv2d_input

Storage = Literal["fp8", "int8"]
_LARGEST = {"fp8": 448.0, "int8": 127.0}
_DTYPE = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
# Smaller ones are not worth a scale a row.
MIN_VALUES = 4096


class QuantizedWeight(nn.Module):
    """A linear or 2-d convolution whose frozen weight is kept in one byte a number.

    Attributes:
        codes: (out, in[, kh, kw]), float8_e4m3fn or int8.
        scales: (out, 1[, 1, 1]), of the arithmetic's dtype: weight = codes · scales.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, module: nn.Linear | nn.Conv2d, storage: Storage) -> None:
        super().__init__()
        weight = module.weight.detach()
        others = tuple(range(1, weight.ndim))
        largest = weight.float().abs().amax(dim=others, keepdim=True).clamp(min=1e-12)
        # The rounded scale is what will be multiplied with, so it is what is divided by.
        scales = (largest / _LARGEST[storage]).to(weight.dtype)
        codes = weight.float() / scales.float()
        if storage == "int8":
            codes = codes.round().clamp(-127, 127)
        self.register_buffer("codes", codes.to(_DTYPE[storage]))
        self.register_buffer("scales", scales)
        self.bias = module.bias
        # Stride, padding, dilation and groups; None for a linear.
        self.convolution: Any = (
            (module.stride, module.padding, module.dilation, module.groups)
            if isinstance(module, nn.Conv2d)
            else None
        )

    @property
    def weight(self) -> Tensor:
        """The opened weight."""
        return self.codes.to(self.scales.dtype) * self.scales

    def forward(self, values: Tensor) -> Tensor:
        return _Product.apply(values, self)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, module: QuantizedWeight) -> Tensor:
        ctx.module = module
        ctx.shape = values.shape
        weight = module.weight
        values = values.to(weight.dtype)
        if module.convolution is None:
            return linear(values, weight, module.bias)
        return conv2d(values, weight, module.bias, *module.convolution)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        (gradient,) = gradients
        module: QuantizedWeight = ctx.module
        weight = module.weight
        gradient = gradient.to(weight.dtype)
        if module.convolution is None:
            return gradient @ weight, None
        return conv2d_input(ctx.shape, weight, gradient, *module.convolution), None


@torch.no_grad()
def quantize(network: nn.Module, storage: Storage) -> int:
    """Put every large linear and convolution of a network in one byte a number.

    Module by module, so that the whole is never there twice.

    Returns:
        Bytes saved.
    """
    saved = 0
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            if module.weight.numel() >= MIN_VALUES:
                small = QuantizedWeight(module, storage)
                saved += module.weight.nbytes - small.codes.nbytes - small.scales.nbytes
                setattr(parent, name, small)
    return saved
