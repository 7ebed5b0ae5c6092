"""The small base's architecture and weights, and random LoRAs for it."""

from collections.abc import Callable

import pytest
import torch

from app.lora_format.architectures import Architecture, architectures
from tests.worker.random_modules import KINDS, Maker
from worker.ml.lora_files.modules import Lora

# Linears, 3×3 and 1×1 convolutions of the UNet, and both text encoders.
PARTS = ("attn2.to_k", "ff.net.0.proj", "resnets.0.conv1", "conv_shortcut", "q_proj")
MakeLora = Callable[..., Lora]


@pytest.fixture(scope="session")
def architecture() -> Architecture:
    return architectures()["emoji-64"]


@pytest.fixture(scope="session")
def make_lora(architecture) -> MakeLora:
    """A random LoRA of a kind; ranks and alphas differ from module to module unless uniform."""

    def make(kind: str = "lora", seed: int = 0, *, parts=PARTS, uniform=False, **fields) -> Lora:
        maker = Maker(seed + 100 * KINDS.index(kind), uniform=uniform)
        modules = {
            path: getattr(maker, kind)(torch.zeros(shape) + 0.1)
            for path, shape in architecture.weights.items()
            if path.endswith(parts)
        }
        assert len(modules) > 5
        return Lora(modules, **fields)

    return make
