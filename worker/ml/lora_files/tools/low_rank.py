"""Singular values of a change ΔW, the best LoRA of a given rank, and how far off that is.

All of it in float64, so that the errors told are those of the result and not of the measuring.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.ml.lora_files.modules import AdapterModule, LokrModule, LoraModule

# Singular values below this share of the largest are rounding of float32, in which files come.
_NOISE = 1e-7
MAX_RANK = 512


@dataclass(frozen=True)
class RankChoice:
    """How many singular values a result keeps.

    Attributes:
        rank: at most so many, 1..512; exactly so many where ΔW has them, if `keep` is None.
        keep: the least share of ‖ΔW‖_F that must stay, in (0, 1]; each module then has the lowest
            rank that does.

    Raises:
        ValueError: a value is outside its range.
    """

    rank: int = MAX_RANK
    keep: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= MAX_RANK:
            raise ValueError(f"the rank is {self.rank}; 1 to {MAX_RANK} is allowed")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"the share to keep is {self.keep}; it is above 0 and at most 1")

    def of(self, values: Tensor) -> int:
        """The rank for these singular values, (k,), descending."""
        if self.keep is None:
            return min(self.rank, len(values))
        kept = values.square().cumsum(0).sqrt()
        # A share of 1 means all that is not rounding, which `decompose` has left out already.
        enough = kept >= self.keep * kept[-1] * (1 - 1e-12)
        return min(self.rank, int(enough.int().argmax()) + 1)


@dataclass(frozen=True)
class Pair:
    """ΔW = up @ down: (out, rank) @ (rank, in · kh · kw), float64."""

    up: Tensor
    down: Tensor

    @classmethod
    def of(cls, module: LoraModule, weight: float = 1.0) -> "Pair":
        """The pair of a LoRA, times a weight; a Tucker core goes into `down`."""
        up = module.up.double().flatten(1) * (module.scale * weight)
        down = module.down.double()
        if module.mid is not None:
            down = torch.einsum("rskl,si->rikl", module.mid.double(), down.flatten(1))
        return cls(up, down.flatten(1))

    def norm(self) -> float:
        """‖ΔW‖_F, without ΔW: the trace of (upᵀ up)(down downᵀ)."""
        grams = (self.up.T @ self.up) * (self.down @ self.down.T)
        return math.sqrt(max(float(grams.sum()), 0.0))


def joined(pairs: list[Pair]) -> Pair:
    """The pair of the sum."""
    return Pair(
        torch.cat([pair.up for pair in pairs], dim=1),
        torch.cat([pair.down for pair in pairs], dim=0),
    )


@dataclass(frozen=True)
class Singular:
    """ΔW = left · diag(values) · right: (out, k), (k,) descending, (k, in · kh · kw); float64.

    The order and the signs are always the same: each column's largest entry in `left` is positive.
    """

    left: Tensor
    values: Tensor
    right: Tensor


def decompose(module: AdapterModule) -> Singular:
    """The singular values of a module's ΔW, DoRA's norm left aside.

    Of a pair ΔW itself is never made, nor of LoKr, whose singular values are the products of its
    factors'.
    """
    if isinstance(module, LoraModule):
        return decompose_pair(Pair.of(module))
    if isinstance(module, LokrModule):
        first, second = (decompose_matrix(factor) for factor in module.factors())
        values = torch.outer(first.values, second.values).flatten()
        left, right = torch.kron(first.left, second.left), torch.kron(first.right, second.right)
        order = values.argsort(descending=True, stable=True)
        return _cleaned(left[:, order], values[order], right[order])
    return decompose_matrix(module.delta())


def decompose_pair(pair: Pair) -> Singular:
    """Of a pair: QR of both, then SVD of the core, which is no larger than the rank."""
    left, upper = torch.linalg.qr(pair.up)  # (out, r), (r, r)
    right, lower = torch.linalg.qr(pair.down.T)  # (in, r), (r, r)
    inner_left, values, inner_right = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return _cleaned(left @ inner_left, values, inner_right @ right.T)


def decompose_matrix(matrix: Tensor) -> Singular:
    """Of a whole matrix: by the eigenvectors of its product with itself, on the shorter side.

    That squares the singular values, which leaves eight digits of float64, one more than float32
    has, and takes a small part of the time of a full SVD.
    """
    matrix = matrix.double()
    if matrix.shape[0] > matrix.shape[1]:
        turned = decompose_matrix(matrix.T)
        return _cleaned(turned.right.T, turned.values, turned.left.T)
    squares, left = torch.linalg.eigh(matrix @ matrix.T)
    values, left = squares.clamp(min=0).sqrt().flip(0), left.flip(1)
    kept = _without_noise(values)
    values, left = values[:kept], left[:, :kept]
    right = (left.T @ matrix) / values.clamp(min=torch.finfo(values.dtype).tiny).unsqueeze(1)
    return _cleaned(left, values, right)


def low_rank_module(
    singular: Singular,
    rank: int,
    weight_shape: tuple[int, ...],
    dtype: torch.dtype,
    dora_scale: Tensor | None = None,
) -> LoraModule:
    """The LoRA of this rank that is nearest to ΔW (Eckart and Young 1936).

    alpha is the rank, so that the scale is 1 and programs that know of no alpha are right too.
    Each singular value goes to both matrices by its root: they are of like size, and half
    precision holds numbers of the middle best.

    Args:
        weight_shape: (out, in) or (out, in, kh, kw) of the weight it changes.
        dtype: of the matrices.
    """
    roots = singular.values[:rank].sqrt()
    up = (singular.left[:, :rank] * roots).to(dtype)
    down = (roots.unsqueeze(1) * singular.right[:rank]).to(dtype)
    return as_module(up, down, weight_shape, dora_scale)


def as_module(
    up: Tensor, down: Tensor, weight_shape: tuple[int, ...], dora_scale: Tensor | None = None
) -> LoraModule:
    """A LoRA of scale 1 of two flat matrices, (out, rank) and (rank, in · kh · kw)."""
    rank = up.shape[1]
    down = down.reshape(rank, *weight_shape[1:]).contiguous()
    up = up.reshape(up.shape[0], rank, *[1] * (len(weight_shape) - 2)).contiguous()
    return LoraModule(down, up, float(rank), dora_scale)


def norm_of(module: AdapterModule) -> float:
    """‖ΔW‖_F."""
    if isinstance(module, LoraModule):
        return Pair.of(module).norm()
    return float(module.delta().double().norm())


def distance(first: AdapterModule, second: AdapterModule) -> float:
    """‖ΔW - ΔW'‖_F; of two pairs without making either."""
    if isinstance(first, LoraModule) and isinstance(second, LoraModule):
        return joined([Pair.of(first), Pair.of(second, -1.0)]).norm()
    return float((first.delta().double() - second.delta().double()).norm())


def _without_noise(values: Tensor) -> int:
    """How many of these, descending, are more than rounding; one of a change that is nothing."""
    return max(int((values > _NOISE * values[0]).sum()), 1)


def _cleaned(left: Tensor, values: Tensor, right: Tensor) -> Singular:
    kept = _without_noise(values)
    left, values, right = left[:, :kept], values[:kept], right[:kept]
    largest = left.abs().argmax(dim=0)
    signs = left[largest, torch.arange(kept)].sign()
    signs[signs == 0] = 1
    return Singular(left * signs, values, right * signs.unsqueeze(1))
