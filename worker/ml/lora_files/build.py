"""Make a module of its parts, once their shapes and values have been checked."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from app.lora_format.adapter_config import configured_alpha
from app.lora_format.errors import LoraFileInvalid, LoraNotFinite, LoraPairMismatch
from worker.ml.lora_files.modules import AdapterModule, LohaModule, LokrModule, LoraModule

_PAIR = ("down", "up", "mid")
_LABELS = {"down": "down matrix", "up": "up matrix", "mid": "mid matrix"}
_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def build(name: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> AdapterModule:
    """A module of whatever kind its parts are.

    Args:
        name: what the file calls it, for errors.
        parts: its tensors, by the names of `parts.Part`.
        config: see `adapter_config`, for an alpha that is no tensor; the rank stands in for one
            that is missing everywhere, or zero.

    Raises:
        LoraFileInvalid: a part is missing, belongs to another kind, or alpha is not one number.
        LoraPairMismatch: parts do not fit each other.
        LoraNotFinite: a value is NaN or infinite.
    """
    for part, tensor in parts.items():
        if part != "alpha" and not bool(torch.isfinite(tensor.float()).all()):
            label = _LABELS.get(part, part)
            raise LoraNotFinite(f"{name}: its {label} holds NaN or infinity")
    kinds = {
        kind
        for kind, prefix in (("LoHa", "hada_"), ("LoKr", "lokr_"))
        if any(part.startswith(prefix) for part in parts)
    }
    if any(part in parts for part in _PAIR):
        kinds.add("LoRA")
    if len(kinds) > 1:
        raise LoraFileInvalid(f"{name}: it has parts of {' and of '.join(sorted(kinds))}")
    if "LoHa" in kinds:
        return _loha(name, parts, config)
    if "LoKr" in kinds:
        return _lokr(name, parts, config)
    return _lora(name, parts, config)


def _lora(name: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> LoraModule:
    for part in ("down", "up"):
        if part not in parts:
            raise LoraFileInvalid(f"{name}: its {part} matrix is missing")
    down, up, mid = parts["down"], parts["up"], parts.get("mid")
    rank = down.shape[0] if down.ndim in (2, 4) else 0
    if rank < 1 or up.ndim not in (2, 4) or up.shape[1:].numel() != rank or up.shape[1] != rank:
        raise LoraPairMismatch(
            f"{name}: down is {tuple(down.shape)} and up {tuple(up.shape)}; they must be "
            f"(rank, in[, kh, kw]) and (out, rank[, 1, 1])"
        )
    if mid is not None and not (
        mid.ndim == 4 and mid.shape[:2] == (rank, rank) and down.shape[2:].numel() == 1
    ):
        raise LoraPairMismatch(
            f"{name}: mid is {tuple(mid.shape)} and down {tuple(down.shape)}; they must be "
            f"(rank, rank, kh, kw) and (rank, in[, 1, 1])"
        )
    scale = _magnitudes(name, parts, rows=up.shape[0], columns=down.shape[1])
    return LoraModule(down, up, _alpha(name, parts, config, rank), scale, mid)


def _loha(name: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> LohaModule:
    _need(name, parts, _HADA)
    t1, t2 = parts.get("hada_t1"), parts.get("hada_t2")
    if (t1 is None) != (t2 is None):
        raise LoraFileInvalid(f"{name}: one of hada_t1 and hada_t2 is missing")
    w1_a, w1_b, w2_a, w2_b = (parts[part] for part in _HADA)
    shape = _product_shape(name, "hada_w1", w1_a, w1_b, t1)
    other = _product_shape(name, "hada_w2", w2_a, w2_b, t2)
    if shape != other or w1_b.shape[0] != w2_b.shape[0]:
        raise LoraPairMismatch(
            f"{name}: the halves are of {shape} and {other}, of ranks {w1_b.shape[0]} and "
            f"{w2_b.shape[0]}; they must be alike"
        )
    scale = _magnitudes(name, parts, rows=shape[0], columns=None if t1 is None else shape[1])
    alpha = _alpha(name, parts, config, w1_b.shape[0])
    return LohaModule(w1_a, w1_b, w2_a, w2_b, alpha, scale, t1, t2)


def _lokr(name: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> LokrModule:
    for factor in ("lokr_w1", "lokr_w2"):
        halves = [f"{factor}{half}" for half in ("_a", "_b") if f"{factor}{half}" in parts]
        if (factor in parts) == bool(halves):
            raise LoraFileInvalid(
                f"{name}: it must have either {factor} or both {factor}_a and {factor}_b"
            )
        if halves:
            _need(name, parts, (f"{factor}_a", f"{factor}_b"))
    if "lokr_t2" in parts and "lokr_w2" in parts:
        raise LoraFileInvalid(f"{name}: it has both lokr_w2 and lokr_t2")
    if "lokr_w1" in parts:
        _expect(name, "lokr_w1", parts["lokr_w1"], (2,), "(out₁, in₁)")
    else:
        _product_shape(name, "lokr_w1", parts["lokr_w1_a"], parts["lokr_w1_b"], None)
    if "lokr_w2" in parts:
        _expect(name, "lokr_w2", parts["lokr_w2"], (2, 4), "(out₂, in₂[, kh, kw])")
    else:
        a, b = parts["lokr_w2_a"], parts["lokr_w2_b"]
        _product_shape(name, "lokr_w2", a, b, parts.get("lokr_t2"))
    factors = {
        part.removeprefix("lokr_"): tensor
        for part, tensor in parts.items()
        if part.startswith("lokr_")
    }
    module = LokrModule(alpha=1.0, **factors)
    scale = _magnitudes(name, parts, rows=module.matrix_shape[0], columns=None)
    alpha = _alpha(name, parts, config, module.rank)
    return replace(module, alpha=alpha, dora_scale=scale)


def _product_shape(
    name: str, factor: str, a: Tensor, b: Tensor, core: Tensor | None
) -> tuple[int, int]:
    """(out, in · kh · kw), or (out, in) of a Tucker product."""
    shapes = f"{factor}_a is {tuple(a.shape)} and {factor}_b {tuple(b.shape)}"
    flat = a.ndim == 2 and b.ndim == 2 and a.numel() > 0 and b.numel() > 0
    if core is None:
        if not flat or a.shape[1] != b.shape[0]:
            raise LoraPairMismatch(f"{name}: {shapes}; they must be (out, rank) and (rank, in)")
        return int(a.shape[0]), int(b.shape[1])
    rank = b.shape[0]
    if not flat or core.ndim != 4 or a.shape[0] != rank or core.shape[:2] != (rank, rank):
        raise LoraPairMismatch(
            f"{name}: {shapes}, the core {tuple(core.shape)}; they must be (rank, out), "
            f"(rank, in) and (rank, rank, kh, kw)"
        )
    return int(a.shape[1]), int(b.shape[1])


def _magnitudes(
    name: str, parts: Mapping[str, Tensor], *, rows: int, columns: int | None
) -> Tensor | None:
    """DoRA's magnitudes, (rows, 1, …) or (1, columns, …); columns None: known to the base alone."""
    if "magnitude" in parts:
        # PEFT: (out,) of a linear, (1, out, 1, 1) of a convolution, always by rows.
        scale = parts["magnitude"]
        if scale.numel() != rows or max(scale.shape, default=0) != rows:
            raise LoraPairMismatch(
                f"{name}: lora_magnitude_vector is {tuple(scale.shape)}; it needs one value for "
                f"each of {rows} outputs"
            )
        return scale.reshape(rows, *[1] * max(scale.ndim - 1, 1))
    if "dora_scale" not in parts:
        return None
    scale = parts["dora_scale"]
    if scale.ndim == 1:
        scale = scale.unsqueeze(1)
    by_rows = scale.shape[:1] == (rows,) and scale.numel() == rows
    width = scale.shape[1] if scale.ndim > 1 else 0
    by_columns = scale.numel() == width > 0 and columns in (None, width)
    if not (by_rows or by_columns):
        wanted = "in" if columns is None else columns
        raise LoraPairMismatch(
            f"{name}: dora_scale is {tuple(scale.shape)}; it must be ({rows}, 1[, 1, 1]) or "
            f"(1, {wanted}[, 1, 1])"
        )
    return scale


def _need(name: str, parts: Mapping[str, Tensor], needed: tuple[str, ...]) -> None:
    for part in needed:
        if part not in parts:
            raise LoraFileInvalid(f"{name}: its {part} is missing")


def _expect(name: str, part: str, tensor: Tensor, ndims: tuple[int, ...], wanted: str) -> None:
    if tensor.ndim not in ndims or tensor.numel() == 0:
        raise LoraPairMismatch(f"{name}: {part} is {tuple(tensor.shape)}; it must be {wanted}")


def _alpha(name: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], rank: int) -> float:
    if "alpha" not in parts:
        return configured_alpha(config, name, rank)
    tensor = parts["alpha"]
    if tensor.numel() != 1:
        raise LoraFileInvalid(f"{name}.alpha has {tensor.numel()} values, not one")
    value = float(tensor.float())
    if not math.isfinite(value):
        raise LoraNotFinite(f"{name}.alpha is {value}")
    return value or float(rank)
