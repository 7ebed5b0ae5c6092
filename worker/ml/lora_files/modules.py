"""What a LoRA is, whatever file it came from: for each adapted module, how its weight changes.

Every kind answers `change(W0)`: what is added to the pristine weight at strength 1, as a matrix
(out, in · kh · kw) in float32. At strength w a program adds w times that.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor


class AdapterModule(ABC):
    """The update of one linear or convolution.

    Attributes:
        alpha: the file's alpha; equal to rank when the file had none (or zero).
        dora_scale: DoRA's magnitudes, (out, 1[, 1, 1]) by rows or (1, in[, 1, 1]) by columns of
            the weight; None for all others.
    """

    alpha: float
    dora_scale: Tensor | None

    @property
    @abstractmethod
    def rank(self) -> int:
        """What alpha is divided by."""

    @property
    @abstractmethod
    def matrix_shape(self) -> tuple[int, int]:
        """(out, in · kh · kw) of the weight it changes, read off its matrices."""

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """Its matrices by their endings in kohya's layout, without alpha and dora_scale."""

    @abstractmethod
    def delta(self) -> Tensor:
        """scale · (the low-rank product), (out, in · kh · kw), float32; before DoRA's norm."""

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        dora = 0 if self.dora_scale is None else self.dora_scale.nbytes
        return dora + sum(tensor.nbytes for tensor in self.tensors().values())


AnyModule = TypeVar("AnyModule", bound=AdapterModule)


def with_tensors(module: AnyModule, convert: Callable[[Tensor], Tensor]) -> AnyModule:
    """The same module with each of its tensors converted, e.g. to another device."""
    # Every kind is a dataclass, which the base class cannot say.
    instance: Any = module
    values = {entry.name: getattr(module, entry.name) for entry in fields(instance)}
    converted = {
        name: convert(value) for name, value in values.items() if isinstance(value, Tensor)
    }
    return replace(instance, **converted)


def change(module: AdapterModule, weight: Tensor) -> Tensor:
    """What a module adds to a pristine weight at strength 1, (out, in · kh · kw), float32.

    With DoRA (Liu et al. 2024, eq. 5) that is m · (W0 + ΔW) / ‖W0 + ΔW‖ - W0, the norm taken
    over each row or column as the magnitudes' shape says.

    Args:
        weight: W0, (out, in[, kh, kw]).
    """
    delta = module.delta()
    if module.dora_scale is None:
        return delta
    pristine = weight.float()
    moved = pristine + delta.view_as(pristine)
    scale = module.dora_scale.float().to(moved.device)
    by_rows = scale.shape[0] == moved.shape[0] and scale.numel() == moved.shape[0]
    kept = 0 if by_rows else 1
    others = [axis for axis in range(moved.ndim) if axis != kept]
    norm = moved.square().sum(dim=others, keepdim=True).sqrt()
    # A row of zeros stays one; without a floor it would become NaN.
    norm = norm.clamp_min(torch.finfo(norm.dtype).eps)
    shape = [-1 if axis == kept else 1 for axis in range(moved.ndim)]
    return (moved * (scale.reshape(shape) / norm) - pristine).flatten(1)


@dataclass(frozen=True)
class LoraModule(AdapterModule):
    """LoRA and LoCon: ΔW = (alpha / rank) · up @ down (Hu et al. 2021).

    Attributes:
        down: (rank, in) for linears, (rank, in, kh, kw) for convolutions.
        up: (out, rank), or (out, rank, 1, 1).
        mid: (rank, rank, kh, kw) of a Tucker-decomposed convolution, whose down is 1×1.
    """

    down: Tensor
    up: Tensor
    alpha: float
    dora_scale: Tensor | None = None
    mid: Tensor | None = None

    @property
    def rank(self) -> int:
        """Columns of `up`, rows of `down`."""
        return int(self.down.shape[0])

    @property
    def matrix_shape(self) -> tuple[int, int]:
        kernel = 1 if self.mid is None else self.mid.shape[2:].numel()
        return int(self.up.shape[0]), self.down.shape[1:].numel() * kernel

    def tensors(self) -> Mapping[str, Tensor]:
        found = {"lora_down.weight": self.down, "lora_up.weight": self.up}
        if self.mid is not None:
            found["lora_mid.weight"] = self.mid
        return found

    def delta(self) -> Tensor:
        up, down = self.up.float().flatten(1), self.down.float().flatten(1)
        if self.mid is None:
            return self.scale * up @ down
        return torch.einsum("or,rskl,si->oikl", self.scale * up, self.mid.float(), down).flatten(1)


@dataclass(frozen=True)
class LohaModule(AdapterModule):
    """LoHa: ΔW = (alpha / rank) · (w1_a @ w1_b) ∘ (w2_a @ w2_b) (Hyeon-Woo et al. 2021).

    Attributes:
        w1_a, w2_a: (out, rank); w1_b, w2_b: (rank, in · kh · kw). With t1 and t2, which are
            (rank, rank, kh, kw), the halves are Tucker products: w_a (rank, out), w_b (rank, in).
    """

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    alpha: float
    dora_scale: Tensor | None = None
    t1: Tensor | None = None
    t2: Tensor | None = None

    @property
    def rank(self) -> int:
        """Rows of `w1_b`."""
        return int(self.w1_b.shape[0])

    @property
    def matrix_shape(self) -> tuple[int, int]:
        return _half_shape(self.w1_a, self.w1_b, self.t1)

    def tensors(self) -> Mapping[str, Tensor]:
        found = {
            "hada_w1_a": self.w1_a,
            "hada_w1_b": self.w1_b,
            "hada_w2_a": self.w2_a,
            "hada_w2_b": self.w2_b,
        }
        if self.t1 is not None and self.t2 is not None:
            found |= {"hada_t1": self.t1, "hada_t2": self.t2}
        return found

    def delta(self) -> Tensor:
        # The scale goes into a small factor: a pass over ΔW costs more than all else.
        first = _half(self.w1_a.float() * self.scale, self.w1_b, self.t1)
        second = _half(self.w2_a, self.w2_b, self.t2)
        return (first * second).flatten(1)


def _half(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    if core is None:
        return a.float() @ b.float()
    # LyCORIS stores both factors of a Tucker product with the rank first.
    return torch.einsum("rskl,si,ro->oikl", core.float(), b.float(), a.float())


def _half_shape(a: Tensor, b: Tensor, core: Tensor | None) -> tuple[int, int]:
    if core is None:
        return int(a.shape[0]), int(b.shape[1])
    return int(a.shape[1]), int(b.shape[1]) * core.shape[2:].numel()


@dataclass(frozen=True)
class LokrModule(AdapterModule):
    """LoKr: ΔW = scale · w1 ⊗ w2, each factor whole or a low-rank product (Yeh et al. 2023).

    Attributes:
        w1: (out₁, in₁); or w1_a (out₁, rank) and w1_b (rank, in₁).
        w2: (out₂, in₂[, kh, kw]); or w2_a (out₂, rank) and w2_b (rank, in₂ · kh · kw); or, with
            t2 (rank, rank, kh, kw), w2_a (rank, out₂) and w2_b (rank, in₂).
        alpha: over the rank; of two whole factors the scale is 1 whatever it says.
    """

    alpha: float
    w1: Tensor | None = None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2: Tensor | None = None
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None
    t2: Tensor | None = None
    dora_scale: Tensor | None = None

    @property
    def rank(self) -> int:
        """Of the factors that are products; 1 if both are whole."""
        for half in (self.w2_b, self.w1_b):
            if half is not None:
                return int(half.shape[0])
        return 1

    @property
    def scale(self) -> float:
        """alpha / rank, or 1 if both factors are whole."""
        if self.w1 is not None and self.w2 is not None:
            return 1.0
        return self.alpha / self.rank

    @property
    def matrix_shape(self) -> tuple[int, int]:
        rows, columns = self._first_shape
        if self.w2 is not None:
            return rows * int(self.w2.shape[0]), columns * self.w2.shape[1:].numel()
        assert self.w2_a is not None, "a factor is whole or a product"
        assert self.w2_b is not None, "a factor is whole or a product"
        below, beside = _half_shape(self.w2_a, self.w2_b, self.t2)
        return rows * below, columns * beside

    @property
    def _first_shape(self) -> tuple[int, int]:
        """(out₁, in₁) of the first factor."""
        if self.w1 is not None:
            return int(self.w1.shape[0]), int(self.w1.shape[1])
        assert self.w1_a is not None, "a factor is whole or a product"
        assert self.w1_b is not None, "a factor is whole or a product"
        return _half_shape(self.w1_a, self.w1_b, None)

    def tensors(self) -> Mapping[str, Tensor]:
        named = {
            "lokr_w1": self.w1,
            "lokr_w1_a": self.w1_a,
            "lokr_w1_b": self.w1_b,
            "lokr_w2": self.w2,
            "lokr_w2_a": self.w2_a,
            "lokr_w2_b": self.w2_b,
            "lokr_t2": self.t2,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def factors(self) -> tuple[Tensor, Tensor]:
        """scale · w1 and w2 as matrices, (out₁, in₁) and (out₂, in₂ · kh · kw), float32.

        ΔW as a matrix is their Kronecker product, of convolutions too.
        """
        return self._first() * self.scale, self._second().flatten(1)

    def delta(self) -> Tensor:
        first, second = self._first() * self.scale, self._second()
        while first.ndim < second.ndim:
            first = first.unsqueeze(-1)
        # Contiguous, as kron reads a factor's memory in the order of its strides.
        return torch.kron(first.contiguous(), second.contiguous()).flatten(1)

    def _first(self) -> Tensor:
        if self.w1 is not None:
            return self.w1.float()
        assert self.w1_a is not None, "a factor is whole or a product"
        assert self.w1_b is not None, "a factor is whole or a product"
        return self.w1_a.float() @ self.w1_b.float()

    def _second(self) -> Tensor:
        if self.w2 is not None:
            return self.w2.float()
        assert self.w2_a is not None, "a factor is whole or a product"
        assert self.w2_b is not None, "a factor is whole or a product"
        return _half(self.w2_a, self.w2_b, self.t2)


@dataclass(frozen=True)
class Lora:
    """A parsed LoRA.

    Attributes:
        modules: by path: the component's name in the diffusers pipeline, a dot, and the module's
            path in it, e.g. `unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q`,
            `text_encoder.text_model.encoder.layers.0.self_attn.q_proj`. Text encoder paths always
            carry `text_model.`, whether or not the installed transformers has that level.
        metadata: the file's, every value a string.
        embeddings: token vectors that stand for the trigger word, by text encoder (the pipeline's
            name for it), (vectors, width); `trigger` says the word. Empty when there are none.
        trigger: the word that the embeddings stand for.
    """

    modules: dict[str, AdapterModule]
    metadata: dict[str, str] = field(default_factory=dict)
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    trigger: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        vectors = sum(tensor.nbytes for tensor in self.embeddings.values())
        return vectors + sum(module.nbytes for module in self.modules.values())
