"""LoRAs for measurements: the small base's attention, random matrices, our own writer's files."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from app.lora_format.names import UnetShape
from worker.ml.inference.pipelines import PipelineHandle
from worker.ml.inference.spec import LoraSpec
from worker.ml.lora_files.modules import AdapterModule, Lora, LoraModule
from worker.ml.lora_files.targets import adaptable_modules
from worker.ml.lora_files.write import write_lora


def make_files(
    handle: PipelineHandle,
    folder: Path,
    *,
    count: int,
    rank: int,
    encoders: bool,
    dtype: torch.dtype = torch.float32,
) -> list[LoraSpec]:
    """Write so many LoRAs; alpha equals rank, which every reader understands alike.

    Args:
        encoders: whether they change the text encoders too.
    """
    modules = adaptable_modules(handle.base.networks())
    chosen = {
        path: module
        for path, module in modules.items()
        if (path.startswith("unet.") and ".attn" in path) or (encoders and "self_attn" in path)
    }
    shape = UnetShape.of(handle.base.unet.config)
    specs = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        lora = Lora(
            {path: _random(module, rank, generator) for path, module in sorted(chosen.items())}
        )
        path = folder / f"{number}.safetensors"
        write_lora(path, lora, shape, {}, dtype)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        specs.append(LoraSpec(id=f"lora_{number}", path=str(path), sha256=sha256, weight=1.0))
    return specs


def _random(module: nn.Module, rank: int, generator: torch.Generator) -> AdapterModule:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    out, inputs = weight.shape
    down = torch.randn(rank, inputs, generator=generator) / inputs**0.5
    # A change of a few percent, as trained ones make.
    up = torch.randn(out, rank, generator=generator) * (0.05 / rank**0.5)
    return LoraModule(down, up, float(rank))
