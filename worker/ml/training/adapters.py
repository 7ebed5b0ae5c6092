"""LoRA layers on the UNet by peft: put on, initialised, read out, read in."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from app.trainings.params import TrainingParams
from worker.ml.lora_files.modules import Lora, LoraModule
from worker.ml.training.sampling import generator_for

# Suffixes of module names, as peft matches them.
TARGETS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "full": (
        *("to_q", "to_k", "to_v", "to_out.0"),
        *("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    ),
}
_NAME = "default"


def add_adapters(unet: nn.Module, params: TrainingParams) -> None:
    """Put float32 LoRA layers on the target modules; all else is frozen.

    Down matrices are drawn by kaiming-uniform (a = √5), a pure function of the seed; up matrices
    are zero, so the UNet starts as it was.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=params.rank, lora_alpha=params.alpha, target_modules=list(TARGETS[params.target])
    )
    unet.requires_grad_(False)
    inject_adapter_in_model(config, unet, adapter_name=_NAME)
    assert params.seed is not None, "a frozen spec has a seed"
    for number, (_, module) in enumerate(_layers(unet)):
        down, up = module.lora_A[_NAME], module.lora_B[_NAME]
        down.float()
        up.float()
        # Autocast chooses formats itself; a cast of the inputs to float32 first doubles the work.
        module.cast_input_dtype_enabled = False
        with torch.no_grad():
            fresh = torch.empty(down.weight.shape)
            # kaiming_uniform_ with a = √5 is uniform over ±1/√fan_in.
            bound = 1 / math.sqrt(fresh[0].numel())
            fresh.uniform_(-bound, bound, generator=generator_for(params.seed, "init", number))
            down.weight.copy_(fresh)
            up.weight.zero_()
        down.weight.requires_grad_(True)
        up.weight.requires_grad_(True)


def adapter_parameters(unet: nn.Module) -> dict[str, nn.Parameter]:
    """The trained matrices by a stable name, ascending."""
    found: dict[str, nn.Parameter] = {}
    for name, module in _layers(unet):
        found[f"{name}.down"] = module.lora_A[_NAME].weight
        found[f"{name}.up"] = module.lora_B[_NAME].weight
    return dict(sorted(found.items()))


def read_adapters(unet: nn.Module) -> Lora:
    """The LoRA as it is now, in float32 on the CPU, by canonical paths."""
    modules: dict[str, LoraModule] = {}
    for name, module in _layers(unet):
        modules[f"unet.{name}"] = LoraModule(
            down=module.lora_A[_NAME].weight.detach().float().cpu().clone(),
            up=module.lora_B[_NAME].weight.detach().float().cpu().clone(),
            alpha=float(module.lora_alpha[_NAME]),
        )
    return Lora(modules)


def base_weights(unet: nn.Module) -> dict[str, Tensor]:
    """The frozen weights under the names they had before the layers were put on."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in unet.state_dict().items()
        if ".lora_" not in name
    }


def _layers(unet: nn.Module) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in unet.named_modules() if hasattr(module, "lora_A")]
