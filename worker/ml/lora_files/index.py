"""Find a base model's module by any of the names that LoRA files give it."""

import re
from collections.abc import Mapping

from torch import nn

from worker.ml.lora_files.sgm import sgm_name
from worker.ml.lora_files.targets import adaptable_modules

_KOHYA_COMPONENTS = {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}
# Attention processors of older diffusers carried the pairs under names of their own.
_PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)$")


class LoraIndex:
    """Canonical paths of one base model's modules, by every name that is understood."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        """Walk a base model's networks, by their name in the pipeline."""
        paths = list(adaptable_modules(networks))
        config = getattr(networks.get("unet"), "config", {})
        self._by_name = {path: path for path in paths}
        for short, component in _KOHYA_COMPONENTS.items():
            for path in paths:
                own, _, rest = path.partition(".")
                if own != component:
                    continue
                names = {rest, rest.removeprefix("text_model.")}
                # Kohya writes the original's block names; others, diffusers'.
                if own == "unet" and (original := sgm_name(rest, config)):
                    names.add(original)
                for name in names:
                    self._by_name[f"lora_{short}_{name}".replace(".", "_")] = path

    def find(self, name: str) -> str | None:
        """The canonical path of the module a file calls `name`; None when the base has none."""
        if name in self._by_name:
            return self._by_name[name]
        plain = name.removeprefix("base_model.model.")
        plain = _PROCESSOR.sub(lambda m: f".{m[1]}.0" if m[1] == "to_out" else f".{m[1]}", plain)
        # A bare PEFT export names no component, and transformers ≥ 5.6 has no `text_model.`.
        component, _, rest = plain.partition(".")
        for guess in (plain, f"unet.{plain}", f"{component}.text_model.{rest}"):
            if guess in self._by_name:
                return self._by_name[guess]
        return None
