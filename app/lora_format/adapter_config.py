"""The alphas of layouts that keep them in the file's metadata instead of in tensors."""

import json
import math
import re
import reprlib
from collections.abc import Mapping
from typing import Any

from app.lora_format.errors import LoraFileInvalid

# diffusers' name for the configurations of PEFT's adapters, one for each network, as JSON.
METADATA_KEY = "lora_adapter_metadata"
_NETWORKS = ("unet", "text_encoder", "text_encoder_2")
# Keys of a pattern that mean the same as a name and as a regular expression.
_NAME = re.compile(r"^\^?[\w.]+$")
# What float32 cannot hold, infinity and NaN are no numbers to scale by.
_TOO_LARGE = 2.0**128


class AdapterConfig:
    """PEFT's configurations of a file's adapters, as far as they decide alphas."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Understand the metadata's entry; an empty mapping says nothing of any module.

        Raises:
            LoraFileInvalid: an `alpha_pattern` is no object, or has a regular expression.
        """
        self._config = config
        # The values of each network's pattern by name, and their order: the first that fits counts.
        self._patterns: dict[str, dict[str, tuple[int, Any]]] = {}
        for prefix in ("", *(f"{network}." for network in _NETWORKS)):
            pattern = config.get(f"{prefix}alpha_pattern") or {}
            if not isinstance(pattern, dict):
                shown = reprlib.repr(pattern)
                raise LoraFileInvalid(f"the metadata's alpha_pattern is {shown}, not an object")
            names: dict[str, tuple[int, Any]] = {}
            for order, (key, value) in enumerate(pattern.items()):
                names.setdefault(_plain(key), (order, value))
            self._patterns[prefix] = names

    def alpha(self, name: str, rank: int) -> float:
        """The alpha of a module, such that alpha / rank is its scale.

        Args:
            name: what the file calls the module.

        Returns:
            `lora_alpha`, or the module's own of `alpha_pattern`; times √rank for rank-stabilised
            LoRA, which scales by alpha / √rank. The rank where the configuration says nothing.

        Raises:
            LoraFileInvalid: it is no finite number.
        """
        plain = name.removeprefix("base_model.model.")
        network, _, path = plain.partition(".")
        # The configuration of one network alone has no prefix.
        prefix, path = (f"{network}.", path) if network in _NETWORKS else ("", plain)
        # PEFT's LoHa and LoKr call it alpha.
        alpha = self._config.get(f"{prefix}lora_alpha") or self._config.get(f"{prefix}alpha")
        fitting = [
            self._patterns[prefix][end] for end in _ends(path) if end in self._patterns[prefix]
        ]
        if fitting:
            alpha = min(fitting, key=lambda found: found[0])[1]
        elif not alpha:
            alpha = rank
        if type(alpha) not in (int, float) or not abs(alpha) < _TOO_LARGE:
            shown = reprlib.repr(alpha)
            raise LoraFileInvalid(f"{name}: the metadata's alpha is {shown}, not a number")
        stabilised = bool(self._config.get(f"{prefix}use_rslora"))
        return float(alpha) * (math.sqrt(rank) if stabilised else 1.0)


def adapter_config(metadata: Mapping[str, str]) -> AdapterConfig:
    """The configurations a file carries.

    Raises:
        LoraFileInvalid: the entry is not JSON, or see `AdapterConfig`.
    """
    try:
        config = json.loads(metadata.get(METADATA_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise LoraFileInvalid(f"the metadata's {METADATA_KEY} is not JSON") from error
    return AdapterConfig(config if isinstance(config, dict) else {})


def _plain(key: str) -> str:
    """A pattern's key without its escapes; `^` at its start means the whole path."""
    plain = key.replace(r"\.", ".")
    # PEFT runs it as a regular expression; one from a stranger's file is not run.
    if not _NAME.match(plain):
        raise LoraFileInvalid(
            f"the metadata's alpha_pattern has {reprlib.repr(key)}, a regular expression; names "
            f"are read"
        )
    return plain


def _ends(path: str) -> list[str]:
    """The keys PEFT would match with a module: its whole path, and what follows any of its dots."""
    words = path.split(".")
    return [f"^{path}", *(".".join(words[start:]) for start in range(len(words)))]
