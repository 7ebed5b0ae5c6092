"""Which of PEFT's settings give the shapes of a LoKr, so that PEFT can read it.

PEFT's file has no shapes of its own: `r`, `decompose_factor` and `decompose_both` decide into what
factors each weight is parted. LyCORIS and others choose alike, but not always for all modules.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.lora_format.errors import LoraLayoutUnsupported
from worker.ml.lora_files.modules import LokrModule

# Endings of an SDXL UNet's 3×3 convolutions; its other modules are linears and 1×1 convolutions.
_KERNELS = (".conv1", ".conv2", ".conv", "conv_in", "conv_out")


@dataclass(frozen=True)
class _Parts:
    """The sizes of one module's factors: (out₁, in₁), (out₂, in₂), and which are products."""

    first: tuple[int, int]
    second: tuple[int, int]
    rank: int
    first_is_whole: bool
    second_is_whole: bool
    tucker: bool


@dataclass(frozen=True)
class LokrSettings:
    """PEFT's settings for a whole LoKr, and `r` of each module."""

    decompose_factor: int
    decompose_both: bool
    use_effective_conv2d: bool
    ranks: dict[str, int]

    def config(self) -> dict[str, Any]:
        """Those that are the same for all modules, as `adapter_config.json` has them."""
        return {
            "decompose_factor": self.decompose_factor,
            "decompose_both": self.decompose_both,
            "use_effective_conv2d": self.use_effective_conv2d,
        }


def settings_for(modules: Mapping[str, LokrModule]) -> LokrSettings:
    """Find settings under which PEFT makes factors of these very shapes.

    Args:
        modules: by their path in the UNet; at least one.

    Raises:
        LoraLayoutUnsupported: there are none.
    """
    parts = {path: _parts(path, module) for path, module in modules.items()}
    factors = sorted({size for each in parts.values() for size in each.first})
    kinds = {each.tucker for path, each in parts.items() if _is_low_rank_kernel(path, each)}
    if len(kinds) > 1:
        raise LoraLayoutUnsupported(
            "some convolutions of this LoKr are Tucker-decomposed and some are not; the peft "
            "layout has it for all or none: write it in the kohya layout"
        )
    for factor in (-1, *factors):
        if any(not _is_parted_so(each, factor) for each in parts.values()):
            continue
        for both in (False, True):
            ranks = {path: _rank(each, both) for path, each in parts.items()}
            if None not in ranks.values():
                found = {path: rank for path, rank in ranks.items() if rank is not None}
                return LokrSettings(factor, both, True in kinds, found)
    example, each = next(iter(parts.items()))
    raise LoraLayoutUnsupported(
        f"no one setting of PEFT's parts every weight as this LoKr does, such as {example} into "
        f"{each.first} and {each.second}: write it in the kohya layout"
    )


def factorization(size: int, factor: int) -> tuple[int, int]:
    """The two numbers whose product is `size` that PEFT and LyCORIS part it into.

    The factor itself first, if it divides; else, of all pairs in ascending order, the last whose
    smaller number is at most the factor (-1: any).
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    limit = size if factor == -1 else factor
    smaller = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0 and n <= max(limit, 1))
    return smaller, size // smaller


def _parts(path: str, module: LokrModule) -> _Parts:
    rows, columns = module.matrix_shape
    kernel = 9 if path.endswith(_KERNELS) else 1
    if module.w1 is not None:
        first = int(module.w1.shape[0]), int(module.w1.shape[1])
    else:
        assert module.w1_a is not None, "a factor is whole or a product"
        assert module.w1_b is not None, "a factor is whole or a product"
        first = int(module.w1_a.shape[0]), int(module.w1_b.shape[1])
    inputs = columns // kernel
    return _Parts(
        first,
        (rows // first[0], inputs // first[1]),
        module.rank,
        module.w1 is not None,
        module.w2 is not None,
        module.t2 is not None,
    )


def _is_low_rank_kernel(path: str, parts: _Parts) -> bool:
    return path.endswith(_KERNELS) and not parts.second_is_whole


def _is_parted_so(parts: _Parts, factor: int) -> bool:
    return all(
        factorization(first * second, factor) == (first, second)
        for first, second in zip(parts.first, parts.second, strict=True)
    )


def _rank(parts: _Parts, both: bool) -> int | None:
    """An `r` for which PEFT keeps whole what is whole here, and no more; None when there is none.

    It makes a product of the second factor where r is below half of its longer side, and of the
    first where that holds for it and `decompose_both` is set.
    """
    rank = parts.rank
    if parts.first_is_whole and parts.second_is_whole:
        # Any that is high enough: of whole factors r is but a number to divide alpha by.
        rank = math.ceil(max(*parts.first, *parts.second) / 2)
    first_is_whole = not (both and rank < max(parts.first) / 2)
    second_is_whole = rank >= max(parts.second) / 2
    told = (parts.first_is_whole, parts.second_is_whole)
    return rank if (first_is_whole, second_is_whole) == told else None
