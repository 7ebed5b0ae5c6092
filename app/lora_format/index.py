"""Find a base model's module by any of the names that LoRA files give it."""

import re
from collections.abc import Iterable

from app.lora_format.names import PREFIXES, UnetShape, kohya_prefix

# Attention processors of older diffusers carried the pairs under names of their own.
_PROCESSOR = re.compile(r"\.processor\.(to_[qkv]|to_out)$")


class LoraIndex:
    """Canonical paths of one base model's modules, by every name that is understood."""

    def __init__(self, paths: Iterable[str], shape: UnetShape | None) -> None:
        """Learn every name of each module.

        Args:
            paths: canonical, e.g. `unet.mid_block.attentions.0.proj_in`.
            shape: of the base's UNet; None where the paths have no UNet.
        """
        self._by_name: dict[str, str] = {}
        for path in paths:
            component, _, name = path.partition(".")
            self._by_name[path] = path
            # Kohya writes the original's block names; other programs diffusers', or leave out
            # the level that newer transformers has not.
            for written in (name, name.removeprefix("text_model.")):
                self._by_name[f"{PREFIXES[component]}_{written}".replace(".", "_")] = path
            if component == "unet" and shape is not None:
                self._by_name[kohya_prefix(path, shape)] = path

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
