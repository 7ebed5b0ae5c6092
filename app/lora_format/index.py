"""Find a base model's module by any of the names that LoRA files give it."""

import re
from collections.abc import Iterable

from app.lora_format.names import PREFIXES, UnetShape, kohya_prefix, sgm_name

# Older diffusers kept an attention's pairs in its processor, and named a text encoder's attention
# as a UNet's.
_PROCESSOR = re.compile(r"(\.processor)?\.(to_[qkv]|to_out)$")
_TEXT_ATTENTION = re.compile(r"\.self_attn\.to_(q|k|v|out)$")
# ComfyUI's names for the text encoders, which OneTrainer writes too.
_CLIPS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


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
            if component == "unet":
                # LyCORIS by itself, as SimpleTuner calls it, wraps the UNet alone.
                self._by_name[f"lycoris_{name}".replace(".", "_")] = path
                if shape is not None:
                    self._by_name[kohya_prefix(path, shape)] = path
                    # The original's path with its dots: ComfyUI's, OneTrainer's, and neither's.
                    original = sgm_name(name, shape)
                    for prefix in ("diffusion_model.", "unet.", ""):
                        self._by_name[f"{prefix}{original}"] = path
            else:
                clip = _CLIPS[component]
                for prefix in (f"text_encoders.{clip}.transformer.", f"{clip}."):
                    self._by_name[f"{prefix}{name}"] = path
                if component == "text_encoder":
                    # Where programs know of one text encoder, it is the first.
                    self._by_name[f"lora_te_{name}".replace(".", "_")] = path

    def find(self, name: str) -> str | None:
        """The canonical path of the module a file calls `name`; None when the base has none."""
        if name in self._by_name:
            return self._by_name[name]
        plain = name.removeprefix("base_model.model.")
        plain = _TEXT_ATTENTION.sub(r".self_attn.\1_proj", plain)
        plain = _PROCESSOR.sub(lambda m: f".{m[2]}.0" if m[2] == "to_out" else f".{m[2]}", plain)
        # A bare PEFT export names no component, and transformers ≥ 5.6 has no `text_model.`.
        component, _, rest = plain.partition(".")
        for guess in (plain, f"unet.{plain}", f"{component}.text_model.{rest}"):
            if guess in self._by_name:
                return self._by_name[guess]
        return None
