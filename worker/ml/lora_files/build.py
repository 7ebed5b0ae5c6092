"""Make a module of its parts, once their shapes and values have been checked."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from app.lora_format.adapter_config import AdapterConfig
from app.lora_format.errors import LoraNotFinite
from app.lora_format.shapes import ModuleShape, as_matrix, module_shape
from worker.ml.lora_files.modules import AdapterModule, LohaModule, LokrModule, LoraModule

_LABELS = {"down": "down matrix", "up": "up matrix", "mid": "mid matrix"}


def build(name: str, parts: Mapping[str, Tensor], config: AdapterConfig) -> AdapterModule:
    """A module of whatever kind its parts are.

    Args:
        name: what the file calls it, for errors.
        parts: its tensors, by the names of `parts.Part`.
        config: for an alpha that is no tensor; the rank stands in for one that is missing
            everywhere, or zero.

    Raises:
        LoraFileInvalid: a part is missing, belongs to another kind, or alpha is not one number.
        LoraPairMismatch: parts do not fit each other.
        LoraNotFinite: a value is NaN or infinite.
    """
    shape = module_shape(name, {part: tuple(tensor.shape) for part, tensor in parts.items()})
    for part, tensor in parts.items():
        if part != "alpha" and not bool(torch.isfinite(tensor.float()).all()):
            raise LoraNotFinite(f"{name}: its {_LABELS.get(part, part)} holds NaN or infinity")
    alpha = _alpha(name, parts, config, shape)
    scale = None
    if shape.magnitudes is not None:
        stored = parts["magnitude"] if "magnitude" in parts else parts["dora_scale"]
        scale = stored.reshape(shape.magnitudes)
    if shape.kind == "loha":
        factors = {
            part: tensor if part.startswith("t") else tensor.reshape(as_matrix(tuple(tensor.shape)))
            for part, tensor in _factors("hada_", parts).items()
        }
        return LohaModule(**factors, alpha=alpha, dora_scale=scale)
    if shape.kind == "lokr":
        return LokrModule(**_factors("lokr_", parts), alpha=alpha, dora_scale=scale)
    return LoraModule(parts["down"], parts["up"], alpha, scale, parts.get("mid"))


def _factors(prefix: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        part.removeprefix(prefix): tensor
        for part, tensor in parts.items()
        if part.startswith(prefix)
    }


def _alpha(
    name: str, parts: Mapping[str, Tensor], config: AdapterConfig, shape: ModuleShape
) -> float:
    if "alpha" not in parts:
        return config.alpha(name, shape.rank)
    value = float(parts["alpha"].float())
    if not math.isfinite(value):
        # Half precision cannot hold the huge ranks by which LyCORIS is asked for whole factors;
        # of these alpha does not count.
        if not shape.scaled:
            return float(shape.rank)
        raise LoraNotFinite(f"{name}.alpha is {value}")
    return value or float(shape.rank)
