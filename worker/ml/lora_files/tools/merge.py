"""Several LoRAs, each with a weight, as one that does the same."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from app.lora_format.architectures import Architecture
from app.lora_format.errors import LoraVariantUnsupported
from worker.ml.lora_files.modules import AdapterModule, Lora, LoraModule
from worker.ml.lora_files.tools import metadata
from worker.ml.lora_files.tools.files import rounded
from worker.ml.lora_files.tools.low_rank import (
    Pair,
    RankChoice,
    as_module,
    decompose_matrix,
    decompose_pair,
    distance,
    joined,
    low_rank_module,
    norm_of,
)
from worker.ml.lora_files.tools.report import ModuleOutcome, Tell, ToolReport, tell_nobody


@dataclass(frozen=True)
class Ingredient:
    """One LoRA of a merge: its title for people, and the weight it is applied with."""

    title: str
    lora: Lora
    weight: float = 1.0


def merge(
    ingredients: Sequence[Ingredient],
    architecture: Architecture,
    choice: RankChoice | None = None,
    dtype: torch.dtype = torch.float16,
    tell: Tell = tell_nobody,
) -> tuple[Lora, ToolReport]:
    """Σ weight · ΔW of every module, as one LoRA of scale 1.

    Args:
        ingredients: at least one.
        choice: None sets the matrices side by side, which is exact but for rounding to `dtype`;
            the rank of a module is then the sum of its ranks. Otherwise the sum is cut down to its
            largest singular values, and the error told says how much that costs.
        dtype: of the result's matrices.
        tell: called before each module.

    Raises:
        LoraVariantUnsupported: DoRA, whose changes do not add up; LoHa or LoKr without a
            `choice`, as their sum has no rank to speak of; or trigger words' vectors in more than
            one. A LoRA alone, at weight 1, may be of any kind.
        ValueError: there is no LoRA, or a weight is not finite.
    """
    if not ingredients or not all(math.isfinite(each.weight) for each in ingredients):
        raise ValueError("a merge needs at least one LoRA, and weights that are numbers")
    alone = len(ingredients) == 1 and ingredients[0].weight == 1 and choice is None
    if not alone:
        _refuse(ingredients, choice)
    with_words = [each for each in ingredients if each.lora.embeddings]
    if len(with_words) > 1:
        raise LoraVariantUnsupported(
            f"{' and '.join(each.title for each in with_words)} each have vectors of a trigger "
            f"word; a LoRA can hold those of one"
        )
    modules: dict[str, AdapterModule] = {}
    outcomes: dict[str, ModuleOutcome] = {}
    paths = sorted({path for each in ingredients for path in each.lora.modules})
    for number, path in enumerate(paths):
        tell(number, len(paths))
        parts = [
            (each.lora.modules[path], each.weight)
            for each in ingredients
            if path in each.lora.modules
        ]
        if alone:
            module = parts[0][0]
            modules[path] = rounded(module, dtype)
            outcomes[path] = _outcome(modules[path], module)
        else:
            modules[path], outcomes[path] = _sum(parts, architecture.weights[path], choice, dtype)
    words = with_words[0].lora if with_words else ingredients[0].lora
    result = Lora(modules, {}, words.embeddings, words.trigger)
    report = ToolReport(outcomes)
    described = metadata.of_merged(
        [each.lora.metadata for each in ingredients],
        result,
        [each.title for each in ingredients],
        _done(ingredients, choice, report),
    )
    return replace(result, metadata=described), report


def _refuse(ingredients: Sequence[Ingredient], choice: RankChoice | None) -> None:
    for each in ingredients:
        for path, module in each.lora.modules.items():
            if module.dora_scale is not None:
                raise LoraVariantUnsupported(
                    f"{each.title} is DoRA ({path}): its changes depend on the whole weight and do "
                    f"not add up with another's, nor scale with a weight; use it as it is"
                )
            if choice is None and not isinstance(module, LoraModule):
                raise LoraVariantUnsupported(
                    f"{each.title} is no plain LoRA ({path}), so the merged one has no rank of its "
                    f"own; give a rank, or a share to keep"
                )


def _sum(
    parts: Sequence[tuple[AdapterModule, float]],
    weight: tuple[int, ...],
    choice: RankChoice | None,
    dtype: torch.dtype,
) -> tuple[LoraModule, ModuleOutcome]:
    pairs = [Pair.of(module, share) for module, share in parts if isinstance(module, LoraModule)]
    if len(pairs) < len(parts):
        assert choice is not None, "refused before"
        total = sum(module.delta().double() * share for module, share in parts)
        assert isinstance(total, torch.Tensor), "there is at least one part"
        singular = decompose_matrix(total)
        merged = low_rank_module(singular, choice.of(singular.values), weight, dtype)
        off = float((total - merged.delta().double()).norm())
        return merged, ModuleOutcome(merged.rank, float(total.norm()), off)
    whole = joined(pairs)
    smallest = min(weight[0], math.prod(weight[1:]))
    if choice is None and whole.up.shape[1] <= smallest:
        beside = joined([_balanced(pair) for pair in pairs])
        merged = as_module(beside.up.to(dtype), beside.down.to(dtype), weight)
    else:
        singular = decompose_pair(whole)
        rank = len(singular.values) if choice is None else choice.of(singular.values)
        merged = low_rank_module(singular, rank, weight, dtype)
    off = joined([whole, Pair.of(merged, -1.0)]).norm()
    return merged, ModuleOutcome(merged.rank, whole.norm(), off)


def _balanced(pair: Pair) -> Pair:
    """Matrices of like size, for half precision; by a power of two, which rounds nothing."""
    up, down = float(pair.up.norm()), float(pair.down.norm())
    if up == 0 or down == 0:
        return pair
    factor = 2.0 ** round(math.log2(down / up) / 2)
    return Pair(pair.up * factor, pair.down / factor)


def _outcome(result: AdapterModule, wanted: AdapterModule) -> ModuleOutcome:
    return ModuleOutcome(result.rank, norm_of(wanted), distance(wanted, result))


def _done(ingredients: Sequence[Ingredient], choice: RankChoice | None, report: ToolReport) -> str:
    sum_of = " + ".join(f"{each.weight:g} × {each.title}" for each in ingredients)
    cut = "" if choice is None else f", with an error of {report.error:.3g}"
    return f"merged: {sum_of}{cut}"
