"""The real small base, loaded once, and LoRAs made up for it."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from worker.ml.base_models.device import DevicePolicy, choose_policy
from worker.ml.inference.pipelines import PipelineHandle, open_pipeline
from worker.ml.inference.spec import BaseModelSpec, GenerationSpec, LoraSpec
from worker.ml.lora_files.modules import Lora, LoraModule
from worker.ml.lora_files.targets import adaptable_modules

EMOJI = Path(__file__).parents[4] / "assets" / "emoji-64"

MakeLora = Callable[..., Lora]
SaveLora = Callable[..., LoraSpec]
MakeSpec = Callable[..., GenerationSpec]


@pytest.fixture(scope="session")
def policy() -> DevicePolicy:
    return choose_policy("cpu")


@pytest.fixture(scope="session")
def base_spec() -> BaseModelSpec:
    return BaseModelSpec(
        id="emoji-64", location=str(EMOJI), architecture="emoji-64", vae_scale_factor=4
    )


@pytest.fixture(scope="session")
def loaded(base_spec: BaseModelSpec, policy: DevicePolicy) -> PipelineHandle:
    return open_pipeline(base_spec, policy)


@pytest.fixture
def handle(loaded: PipelineHandle) -> PipelineHandle:
    """The shared pipeline with every LoRA off."""
    loaded.bank.activate([])
    return loaded


@pytest.fixture(scope="session")
def modules(loaded: PipelineHandle) -> dict[str, nn.Module]:
    return adaptable_modules(loaded.base.networks())


@pytest.fixture(scope="session")
def make_lora(modules: dict[str, nn.Module]) -> MakeLora:
    """A random LoRA: `pattern` picks modules, `ranks` and `alphas` go round over them."""

    def make(
        seed: int,
        pattern: str = "attn",
        ranks: tuple[int, ...] = (4,),
        alphas: tuple[float, ...] = (2.0,),
    ) -> Lora:
        generator = torch.Generator().manual_seed(seed)
        made = {}
        for i, path in enumerate(sorted(path for path in modules if pattern in path)):
            weight = modules[path].weight
            assert isinstance(weight, torch.Tensor)
            rank, alpha = ranks[i % len(ranks)], alphas[i % len(alphas)]
            out, inputs, *kernel = weight.shape
            down = torch.randn(rank, inputs, *kernel, generator=generator) / inputs**0.5
            up = torch.randn(out, rank, *([1] * len(kernel)), generator=generator) * 0.3
            made[path] = LoraModule(down, up, alpha)
        return Lora(made)

    return make


@pytest.fixture
def save_lora(tmp_path: Path) -> SaveLora:
    """Write a LoRA in kohya's layout with diffusers' block names."""

    def save(lora: Lora, weight: float = 1.0, *, with_alpha: bool = True) -> LoraSpec:
        prefixes = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
        tensors = {}
        for path, module in lora.modules.items():
            component, _, rest = path.partition(".")
            name = f"{prefixes[component]}_{rest.replace('.', '_')}"
            tensors[f"{name}.lora_down.weight"] = module.down
            tensors[f"{name}.lora_up.weight"] = module.up
            if with_alpha:
                tensors[f"{name}.alpha"] = torch.tensor(module.alpha)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        save_file(tensors, path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return LoraSpec(id="lora_test", path=str(path), sha256=sha256, weight=weight)

    return save


@pytest.fixture(scope="session")
def make_spec(base_spec: BaseModelSpec) -> MakeSpec:
    def make(**changes: object) -> GenerationSpec:
        fields: dict[str, object] = {
            "prompt": "a red apple",
            "width": 64,
            "height": 64,
            "steps": 6,
            "guidance_scale": 4.0,
            "seeds": (1,),
            "base_model": base_spec,
        }
        return GenerationSpec.model_validate(fields | changes)

    return make
