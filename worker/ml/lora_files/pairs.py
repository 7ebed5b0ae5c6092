"""Sort a file's tensors into low-rank pairs, whatever layout named them; no base model needed.

Layouts told apart by how a name ends:
* kohya: `lora_unet_… .lora_down.weight`, `.lora_up.weight`, `.alpha`;
* PEFT and diffusers: `… .lora_A.weight`, `.lora_B.weight`, adapter name in between or not;
* older diffusers: `… .lora.down.weight`, `.lora.up.weight`, `_lora.down.weight`.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from worker.ml.lora_files.errors import (
    LoraFileInvalid,
    LoraKeysUnknown,
    LoraNotFinite,
    LoraPairMismatch,
    LoraVariantUnsupported,
)
from worker.ml.lora_files.modules import LoraModule

Layout = Literal["kohya", "diffusers", "peft"]

_DOWN = re.compile(r"^(.+?)(\.lora_down|\.lora\.down|_lora\.down|\.lora_A(?:\.\w+)?)\.weight$")
_UP = re.compile(r"^(.+?)(\.lora_up|\.lora\.up|_lora\.up|\.lora_B(?:\.\w+)?)\.weight$")
_ALPHA = re.compile(r"^(.+?)\.alpha$")
# How the names of adapters end that are more, or other, than a low-rank pair.
_VARIANTS = {
    "DoRA": re.compile(r"\.(dora_scale|lora_magnitude_vector(\.\w+)*)$"),
    "LoHa": re.compile(r"\.hada_\w+$"),
    "LoKr": re.compile(r"\.lokr_\w+$"),
    "OFT or BOFT": re.compile(r"\.(oft_\w+|boft_\w+)(\.weight)?$"),
    "IA3": re.compile(r"\.on_input$"),
    "a full difference": re.compile(r"\.(diff|diff_b)$"),
    "Tucker-decomposed LoCon": re.compile(r"\.lora_mid\.weight$"),
    "LoRA with a bias": re.compile(r"\.lora_B(\.\w+)?\.bias$"),
}
_DIFFUSERS_METADATA = "lora_adapter_metadata"


@dataclass(frozen=True)
class Pairs:
    """A file's content.

    Attributes:
        modules: by the name the file gives the module, e.g. `lora_unet_mid_block_…` or
            `unet.mid_block.…`.
        unknown: names of tensors that belong to no pair.
    """

    layout: Layout
    modules: dict[str, LoraModule]
    unknown: tuple[str, ...]


def sort_pairs(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Pairs:
    """Pair every down with its up and alpha; a missing alpha, or 0, means the rank.

    Raises:
        LoraVariantUnsupported: there are tensors of DoRA, LoHa, LoKr and the like.
        LoraKeysUnknown: no name is of a layout above.
        LoraFileInvalid: half of a pair is missing, or an alpha is not one number.
        LoraPairMismatch: up and down differ in rank.
        LoraNotFinite: a value is NaN or infinite.
    """
    _refuse_variants(tensors)
    downs: dict[str, Tensor] = {}
    ups: dict[str, Tensor] = {}
    alphas: dict[str, Tensor] = {}
    unknown = []
    layouts: set[Layout] = set()
    for name, tensor in tensors.items():
        if match := _DOWN.match(name):
            downs[match.group(1)] = tensor
            layouts.add(_layout(match.group(1), match.group(2)))
        elif match := _UP.match(name):
            ups[match.group(1)] = tensor
        elif match := _ALPHA.match(name):
            alphas[match.group(1)] = tensor
        else:
            unknown.append(name)
    if not downs and not ups:
        first = ", ".join(list(tensors)[:5])
        raise LoraKeysUnknown(f"no tensor is named as in a LoRA; the first names are: {first}")
    for name in sorted(downs.keys() ^ ups.keys()):
        missing = "up" if name in downs else "down"
        raise LoraFileInvalid(f"{name}: its {missing} matrix is missing")
    unknown.extend(f"{name}.alpha" for name in alphas.keys() - downs.keys())

    config = _adapter_config(metadata)
    modules = {}
    for name, down in downs.items():
        up = ups[name]
        _check_pair(name, down, up)
        rank = down.shape[0]
        if name in alphas:
            alpha = _alpha(name, alphas[name]) or float(rank)
        else:
            alpha = _configured_alpha(config, name, rank)
        modules[name] = LoraModule(down, up, alpha)
    return Pairs(sorted(layouts)[0], modules, tuple(unknown))


def _layout(name: str, ending: str) -> Layout:
    if name.startswith("lora_"):
        return "kohya"
    return (
        "peft" if name.startswith("base_model.") or ending.startswith(".lora_A.") else "diffusers"
    )


def _refuse_variants(names: Mapping[str, Any]) -> None:
    for variant, pattern in _VARIANTS.items():
        found = [name for name in names if pattern.search(name)]
        if found:
            raise LoraVariantUnsupported(
                f"the file is {variant} ({len(found)} tensors such as {found[0]}); plain LoRA and "
                f"LoCon are read"
            )


def _check_pair(name: str, down: Tensor, up: Tensor) -> None:
    rank = down.shape[0] if down.ndim in (2, 4) else 0
    if rank < 1 or up.ndim not in (2, 4) or up.shape[1:].numel() != rank:
        raise LoraPairMismatch(
            f"{name}: down is {tuple(down.shape)} and up {tuple(up.shape)}; they must be "
            f"(rank, in[, kh, kw]) and (out, rank[, 1, 1])"
        )
    for half, tensor in (("down", down), ("up", up)):
        if not bool(torch.isfinite(tensor.float()).all()):
            raise LoraNotFinite(f"{name}: its {half} matrix holds NaN or infinity")


def _alpha(name: str, tensor: Tensor) -> float:
    if tensor.numel() != 1:
        raise LoraFileInvalid(f"{name}.alpha has {tensor.numel()} values, not one")
    value = float(tensor.float())
    if not math.isfinite(value):
        raise LoraNotFinite(f"{name}.alpha is {value}")
    return value


def _adapter_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The configuration that diffusers stores beside its layout, which has no alpha tensors."""
    try:
        config = json.loads(metadata.get(_DIFFUSERS_METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise LoraFileInvalid(f"the metadata's {_DIFFUSERS_METADATA} is not JSON") from error
    return config if isinstance(config, dict) else {}


def _configured_alpha(config: dict[str, Any], name: str, rank: int) -> float:
    """The alpha an adapter configuration gives a module; the rank where it says nothing."""
    component, _, path = name.partition(".")
    alpha = config.get(f"{component}.lora_alpha") or rank
    patterns = config.get(f"{component}.alpha_pattern") or {}
    for ending, value in patterns.items():
        # In PEFT this is a regular expression; one from a stranger's file is not run.
        if path == ending or path.endswith(f".{ending}"):
            alpha = value
            break
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise LoraFileInvalid(f"{name}: the metadata's alpha is {alpha!r}, not a number")
    # Rank-stabilised LoRA scales by alpha / √rank.
    stabilised = bool(config.get(f"{component}.use_rslora"))
    return float(alpha) * (math.sqrt(rank) if stabilised else 1.0)
