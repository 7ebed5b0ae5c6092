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

from worker.ml.training.network.layers import LoraLayer


class _JoinedProjection(torch.autograd.Function):
    """y = x Wᵀ + Σᵢ (x downᵢᵀ)(sᵢ upᵢ)ᵀ, each i adding to columns of its own; see `_LoraLinear`.

    The up matrices stand along the diagonal of a larger one. Its zeros cost some arithmetic, far
    less than W's, and save two products of three.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, scales: Any, *halves: Tensor) -> Tensor:
        count = len(scales)
        flat = values.reshape(-1, values.shape[-1])
        down = torch.cat(halves[:count]).to(flat.dtype)
        scaled = [up * scale for up, scale in zip(halves[count:], scales, strict=True)]
        up = torch.block_diag(*scaled).to(flat.dtype)
        low = flat @ down.t()
        answer = flat @ weight.t()
        answer.addmm_(low, up.t())
        ctx.save_for_backward(flat, low, weight, down, up)
        ctx.scales = scales
        ctx.sizes = [half.shape[0] for half in halves]
        return answer.view(*values.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, low, weight, down, up = ctx.saved_tensors
        count = len(ctx.scales)
        ranks, rows = ctx.sizes[:count], ctx.sizes[count:]
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        for_low = gradient @ up
        for_downs = (for_low.t() @ flat).float().split(ranks)
        whole = gradient.t() @ low
        for_ups = [
            block.split(ranks, dim=1)[number].float() * scale
            for number, (block, scale) in enumerate(zip(whole.split(rows), ctx.scales, strict=True))
        ]
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

    def __init__(self, attention: Any) -> None:
        reading = _reading_the_same(attention)
        self._crosses = len(reading) == 2
        self._joined = Joined(reading)

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
        mixed = scaled_dot_product_attention(query, key, value, scale=attn.scale)
        # (B, heads, N, width of a head) → (B, N, width)
        answer: Tensor = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        return answer


def choose_attention(unet: Any, *, step_by_step: bool, join: bool) -> None:
    """Set how the UNet's attentions compute.

    Args:
        step_by_step: scores, softmax and sum one after the other, which for few tokens on a CPU
            takes less time than the fused kernel.
        join: project together what reads the same input, where all of it is plain LoRA.
    """
    if step_by_step:
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())
        return
    for block in unet.modules() if join else ():
        for attention in (getattr(block, "attn1", None), getattr(block, "attn2", None)):
            if attention is not None and joinable(_reading_the_same(attention)):
                attention.processor = JoinedAttention(attention)


def _reading_the_same(attention: Any) -> list[nn.Module]:
    """Query, key and value of a self-attention; key and value of a cross-attention."""
    reading = [attention.to_q, attention.to_k, attention.to_v]
    return reading[1:] if attention.is_cross_attention else reading


def _heads(values: Tensor, count: int, heads: int) -> tuple[Tensor, ...]:
    """(B, N, count · width) → count tensors (B, heads, N, width of a head)."""
    return values.unflatten(-1, (count, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
