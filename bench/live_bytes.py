"""Counts the bytes of living tensors on the meta device, where tensors have sizes but no memory.

What a step would hold at its peak is known exactly, but for what CUDA and its libraries take for
themselves, without a GPU and in seconds. One thing that only a GPU does is played: attention keeps
what the fused kernel keeps.
"""

import weakref
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Inside the block, every storage that an operation makes is counted until it is gone.

    Attributes:
        now: bytes living that were made inside the block.
        peak: the most that `now` has been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            # What comes from outside the block is not counted when a view of it comes back.
            if isinstance(leaf, Tensor):
                self._see(leaf, 0)
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._see(leaf, leaf.untyped_storage().nbytes())
        return made

    def _see(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


class CudaAttention(TorchFunctionMode):
    """Attention keeps what the fused kernel keeps, not what it would take step by step."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return FusedAttention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class FusedAttention(torch.autograd.Function):
    """Keeps for backward what flash attention keeps: q, k, v, the answer, a number a row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        answer = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, answer, sums)
        return answer

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _answer, sums = ctx.saved_tensors
        # The kernel adds up the queries' gradient in float32, and a dot product of each row.
        summed = torch.empty_like(query, dtype=torch.float32)
        dots = torch.empty_like(sums)
        found = tuple(torch.empty_like(tensor) for tensor in (query, key, value))
        del summed, dots
        return found[0], found[1], found[2]


def checkpoint(module: Any, *args: Any) -> Any:
    """Gradient checkpointing as diffusers does it, with fused attention in the second pass too."""
    # Backward is itself a call that modes see, and none is active inside a call it sees.
    return torch.utils.checkpoint.checkpoint(
        module, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), CudaAttention())
    )
