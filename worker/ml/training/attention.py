"""Attention with LoRA in few and large products: what reads the same input is projected together.

Query, key and value of a self-attention read one input, key and value of a cross-attention the
text. Their frozen weights are laid side by side (as one piece of memory, of which each keeps its
part), and so are their down matrices for the time of a product.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from worker.ml.training.layers import LoraLayer


class _JoinedProjection(torch.autograd.Function):
    """y = x Wᵀ + Σᵢ (x downᵢᵀ)(sᵢ upᵢ)ᵀ, each i adding to columns of its own; see `_LoraLinear`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, scales: Any, *halves: Tensor) -> Tensor:
        count = len(scales)
        flat = values.reshape(-1, values.shape[-1])
        down = torch.cat(halves[:count]).to(flat.dtype)
        ups = [
            (up * scale).to(flat.dtype) for up, scale in zip(halves[count:], scales, strict=True)
        ]
        low = flat @ down.t()
        answer = flat @ weight.t()
        rank = row = 0
        for up in ups:
            rows, ranks = up.shape
            answer[:, row : row + rows].addmm_(low[:, rank : rank + ranks], up.t())
            row, rank = row + rows, rank + ranks
        ctx.save_for_backward(flat, low, weight, down, *ups)
        ctx.scales = scales
        return answer.view(*values.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, low, weight, down, *ups = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        sizes, ranks = [up.shape[0] for up in ups], [up.shape[1] for up in ups]
        parts = gradient.split(sizes, dim=1)
        for_ups = [
            (part.t() @ piece).float().mul_(scale)
            for part, piece, scale in zip(parts, low.split(ranks, dim=1), ctx.scales, strict=True)
        ]
        for_low = torch.cat([part @ up for part, up in zip(parts, ups, strict=True)], dim=1)
        for_downs = (for_low.t() @ flat).float().split(ranks)
        for_values = None
        if ctx.needs_input_grad[0]:
            for_values = gradient @ weight
            for_values.addmm_(for_low, down)
            for_values = for_values.view(*gradients[0].shape[:-1], -1)
        return for_values, None, None, *for_downs, *for_ups


class Joined:
    """Modules that read the same input: with plain LoRA in one product, else each for itself."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = list(modules)
        self._layers: list[LoraLayer] = []
        if not joinable(modules):
            return
        self._layers = [module for module in modules if isinstance(module, LoraLayer)]
        self._bases = [layer.base for layer in self._layers]
        self._weight = torch.cat([layer.weight.detach() for layer in self._layers])
        row = 0
        for layer in self._layers:
            rows = layer.weight.shape[0]
            # A part of the whole, so that nothing is there twice.
            layer.weight.data = self._weight[row : row + rows]
            row += rows

    def __call__(self, values: Tensor) -> Tensor:
        """All their answers side by side, (..., Σ out)."""
        layers = self._layers
        # A base may have been made small since, for want of memory.
        together = layers and all(
            layer.goes_plain and layer.base is base
            for layer, base in zip(layers, self._bases, strict=True)
        )
        if not together:
            return torch.cat([module(values) for module in self._modules], dim=-1)
        downs = [layer.down for layer in layers]
        ups = [layer.up for layer in layers]
        scales = [layer.scale for layer in layers]
        answer: Tensor = _JoinedProjection.apply(values, self._weight, scales, *downs, *ups)
        return answer


def joinable(modules: Sequence[nn.Module]) -> bool:
    """Whether all are plain LoRA layers without a bias."""
    return all(isinstance(module, LoraLayer) and module.can_join for module in modules)


class JoinedAttention:
    """A processor for diffusers' `Attention` as transformer blocks of SDXL's UNet have it."""

    def __init__(self, attention: Any, *, step_by_step: bool) -> None:
        """Args:
        step_by_step: scores, softmax and sum one after the other, which for few tokens on a
            CPU takes less time than the fused kernel.
        """
        reading = [attention.to_q, attention.to_k, attention.to_v]
        self._crosses = bool(attention.is_cross_attention)
        self._joined = Joined(reading[1:] if self._crosses else reading)
        self._step_by_step = step_by_step

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Attend; (B, N, width), and (B, M, text width) where it crosses."""
        assert attention_mask is None, "SDXL's UNet is given no mask"
        if self._crosses:
            assert encoder_hidden_states is not None, "a cross-attention is given a text"
            (query,) = _heads(attn.to_q(hidden_states), 1, attn.heads)
            key, value = _heads(self._joined(encoder_hidden_states), 2, attn.heads)
        else:
            query, key, value = _heads(self._joined(hidden_states), 3, attn.heads)
        if self._step_by_step:
            mixed = _one_after_the_other(query, key, value, attn.scale)
        else:
            mixed = scaled_dot_product_attention(query, key, value, scale=attn.scale)
        # (B, heads, N, width of a head) → (B, N, width)
        answer: Tensor = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        return answer


def join_projections(unet: nn.Module, *, step_by_step: bool) -> int:
    """Give the transformer blocks' attentions the processor above, where it gains something.

    Args:
        step_by_step: see `JoinedAttention`.

    Returns:
        How many attentions have it.
    """
    found = 0
    for block in unet.modules():
        for name in ("attn1", "attn2"):
            attention: Any = getattr(block, name, None)
            if attention is None:
                continue
            reading = [attention.to_q, attention.to_k, attention.to_v]
            if step_by_step or joinable(reading[attention.is_cross_attention :]):
                attention.processor = JoinedAttention(attention, step_by_step=step_by_step)
                found += 1
    return found


def _heads(values: Tensor, count: int, heads: int) -> tuple[Tensor, ...]:
    """(B, N, count · width) → count tensors (B, heads, N, width of a head), copied at once."""
    apart = values.unflatten(-1, (count, heads, -1)).permute(2, 0, 3, 1, 4)
    return apart.contiguous().unbind(0)


def _one_after_the_other(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    batch, heads = query.shape[:2]
    q, k, v = (tensor.flatten(0, 1) for tensor in (query, key, value))
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=scale)
    shares = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype)
    return torch.bmm(shares, v).unflatten(0, (batch, heads))
