"""LoRA layers start as nothing, hold only what the target names, and read back as set."""

import math
from copy import deepcopy

import pytest
import torch

from app.trainings.params import TrainingParams
from worker.ml.base_models.device import choose_policy
from worker.ml.base_models.hashing import hash_networks, hash_tensors
from worker.ml.base_models.load import load_base_model
from worker.ml.training.adapters import (
    adapter_parameters,
    add_adapters,
    base_weights,
    read_adapters,
)
from worker.ml.training.spec import read_spec


@pytest.fixture
def unet(write_spec):
    location = read_spec(write_spec()).base_model.location
    return load_base_model(location, None, choose_policy("cpu"), parts=("unet",)).unet


def _predict(unet):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return unet(
            torch.randn(1, 4, 16, 16, generator=generator),
            torch.tensor([500]),
            encoder_hidden_states=torch.randn(1, 77, 256, generator=generator),
            added_cond_kwargs={
                "text_embeds": torch.randn(1, 128, generator=generator),
                "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]]),
            },
            return_dict=False,
        )[0]


def _params(**changes):
    return TrainingParams(**{"rank": 4, "alpha": 2.0, "seed": 1, **changes})


def test_a_fresh_lora_changes_nothing(unet):
    before = _predict(unet)
    add_adapters(unet, _params())
    assert torch.equal(_predict(unet), before)


def test_the_bases_weights_keep_their_names_and_hash(unet):
    before = hash_networks({"unet": unet})
    add_adapters(unet, _params(target="full"))
    after = hash_tensors({f"unet.{name}": tensor for name, tensor in base_weights(unet).items()})
    assert after == before


@pytest.mark.parametrize("target", ["attention", "full"])
def test_only_the_targets_are_trained(unet, target):
    add_adapters(unet, _params(target=target))
    trained = {name for name, weight in unet.named_parameters() if weight.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    blocks = sum(type(module).__name__ == "BasicTransformerBlock" for module in unet.modules())
    wrappers = sum(type(module).__name__ == "Transformer2DModel" for module in unet.modules())
    modules = 8 * blocks + (2 * blocks + 2 * wrappers if target == "full" else 0)
    assert len(trained) == 2 * modules
    assert len(read_adapters(unet).modules) == modules


def test_down_matrices_are_kaiming_uniform_and_a_function_of_the_seed(unet):
    add_adapters(unet, _params(rank=16))
    for name, weight in adapter_parameters(unet).items():
        assert weight.dtype == torch.float32
        if name.endswith(".up"):
            assert not weight.any()
            continue
        # kaiming_uniform_ with a = √5 is uniform over ±1/√fan_in, whose deviation is bound / √3.
        bound = 1 / math.sqrt(weight.shape[1])
        assert float(weight.detach().abs().max()) <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_the_same_seed_starts_the_same_way(unet):
    other = deepcopy(unet)
    torch.manual_seed(5)
    add_adapters(unet, _params())
    torch.manual_seed(6)
    add_adapters(other, _params())
    mine, theirs = adapter_parameters(unet), adapter_parameters(other)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_is_read_is_what_the_layers_apply(unet):
    before = _predict(unet)
    add_adapters(unet, _params())
    for number, weight in enumerate(adapter_parameters(unet).values()):
        with torch.no_grad():
            generator = torch.Generator().manual_seed(number)
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    adapted = _predict(unet)
    assert not torch.allclose(adapted, before, atol=0.05)
    lora = read_adapters(unet)
    for path, module in lora.modules.items():
        layer = unet.get_submodule(path.removeprefix("unet."))
        assert module.alpha == 2.0
        layer.base_layer.weight.data += module.scale * module.up @ module.down
        layer.lora_B["default"].weight.data.zero_()
    assert torch.allclose(_predict(unet), adapted, atol=1e-4)
