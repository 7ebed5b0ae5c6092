"""Which modules of a base model a LoRA can change, by canonical path."""

from collections.abc import Mapping

from torch import nn

from app.lora_format.index import LoraIndex
from app.lora_format.names import UnetShape

_COMPONENTS = ("unet", "text_encoder", "text_encoder_2")

# Endings of module names, as sd-scripts chooses them.
_ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
_FULL = (*_ATTENTION, ".ff.net.0.proj", ".ff.net.2", ".proj_in", ".proj_out")
_CONVOLUTIONS = (".conv1", ".conv2", ".time_emb_proj", ".conv_shortcut", ".downsamplers.0.conv")
_CONV = (*_FULL, *_CONVOLUTIONS, ".upsamplers.0.conv")
TARGETS = {"attention": _ATTENTION, "full": _FULL, "conv": _CONV}
TEXT_TARGETS = (".q_proj", ".k_proj", ".v_proj", ".out_proj", ".fc1", ".fc2")


def adaptable_modules(networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Every linear and convolution of the UNet and the text encoders.

    Args:
        networks: by their name in the pipeline; others, such as the VAE, are left out.

    Returns:
        Modules by the canonical path that `Lora.modules` uses: text encoder paths carry
        `text_model.` whether or not the installed transformers has that level.
    """
    found: dict[str, nn.Module] = {}
    for component in _COMPONENTS:
        network = networks.get(component)
        if network is None:
            continue
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                found[canonical_path(component, name)] = module
    return found


def index_of(networks: Mapping[str, nn.Module]) -> LoraIndex:
    """Every name of the modules of a base model's networks, by their name in the pipeline."""
    unet = networks.get("unet")
    shape = None if unet is None else UnetShape.of(getattr(unet, "config"))  # noqa: B009
    return LoraIndex(adaptable_modules(networks), shape)


def canonical_path(component: str, name: str) -> str:
    """The canonical path of a module from its name in its component."""
    # CLIPTextModel lost this level in transformers 5.6; CLIPTextModelWithProjection kept it, with
    # its projection beside it.
    flattened = name.startswith(("encoder.", "embeddings.", "final_layer_norm"))
    if component.startswith("text_encoder") and flattened:
        return f"{component}.text_model.{name}"
    return f"{component}.{name}"
