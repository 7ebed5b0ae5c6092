"""The alphas of layouts that keep them in the file's metadata instead of in tensors."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from app.lora_format.errors import LoraFileInvalid

# diffusers' name for the configurations of PEFT's adapters, one for each network, as JSON.
METADATA_KEY = "lora_adapter_metadata"
_NETWORKS = ("unet", "text_encoder", "text_encoder_2")
# Keys of a pattern that mean the same as a name and as a regular expression.
_NAME = re.compile(r"^\^?[\w.]+$")


def adapter_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The configurations a file carries; empty when it has none.

    Raises:
        LoraFileInvalid: the entry is not JSON.
    """
    try:
        config = json.loads(metadata.get(METADATA_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise LoraFileInvalid(f"the metadata's {METADATA_KEY} is not JSON") from error
    return config if isinstance(config, dict) else {}


def configured_alpha(config: Mapping[str, Any], name: str, rank: int) -> float:
    """The alpha a configuration gives a module, such that alpha / rank is its scale.

    Args:
        name: what the file calls the module.

    Returns:
        `lora_alpha`, or the module's own of `alpha_pattern`; times √rank for rank-stabilised
        LoRA, which scales by alpha / √rank. The rank where the configuration says nothing.

    Raises:
        LoraFileInvalid: it is no finite number, or is given to a regular expression.
    """
    plain = name.removeprefix("base_model.model.")
    network, _, path = plain.partition(".")
    # The configuration of one network alone has no prefix.
    prefix, path = (f"{network}.", path) if network in _NETWORKS else ("", plain)
    # PEFT's LoHa and LoKr call it alpha.
    alpha = config.get(f"{prefix}lora_alpha") or config.get(f"{prefix}alpha") or rank
    patterns = config.get(f"{prefix}alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise LoraFileInvalid(f"the metadata's alpha_pattern is {patterns!r}, not an object")
    for key, value in patterns.items():
        if _matches(key, path):
            alpha = value
            break
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise LoraFileInvalid(f"{name}: the metadata's alpha is {alpha!r}, not a number")
    stabilised = bool(config.get(f"{prefix}use_rslora"))
    return float(alpha) * (math.sqrt(rank) if stabilised else 1.0)


def _matches(key: str, path: str) -> bool:
    """Whether PEFT would give a module the value of this key: it ends so, at a dot."""
    plain = key.replace(r"\.", ".")
    # PEFT runs it as a regular expression; one from a stranger's file is not run.
    if not _NAME.match(plain):
        raise LoraFileInvalid(
            f"the metadata's alpha_pattern has {key!r}, a regular expression; names are read"
        )
    if plain.startswith("^"):
        return path == plain[1:]
    return path == plain or path.endswith(f".{plain}")
