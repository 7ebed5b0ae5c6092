"""Projections that are made together answer, and learn, as each for itself."""

from copy import deepcopy

import pytest
import torch

from app.trainings.params import TrainingParams
from worker.ml.base_models.device import choose_policy
from worker.ml.base_models.load import load_base_model
from worker.ml.training.network.adapters import add_adapters
from worker.ml.training.network.attention import JoinedAttention, choose_attention
from worker.ml.training.network.quantized import quantize
from worker.ml.training.spec import read_spec


@pytest.fixture
def unet(write_spec):
    location = read_spec(write_spec()).base_model.location
    return load_base_model(location, None, choose_policy("cpu"), parts=("unet",)).unet


def _predict(unet):
    generator = torch.Generator().manual_seed(0)
    return unet(
        torch.randn(2, 4, 16, 16, generator=generator),
        torch.tensor([500, 20]),
        encoder_hidden_states=torch.randn(2, 77, 256, generator=generator),
        added_cond_kwargs={
            "text_embeds": torch.randn(2, 128, generator=generator),
            "time_ids": torch.tensor([[64, 64, 0, 0, 64, 64]] * 2),
        },
        return_dict=False,
    )[0]


def _adapted(unet, **params):
    adapters = add_adapters({"unet": unet}, TrainingParams(rank=4, seed=1, **params))
    for name, weight in adapters.named_parameters().items():
        generator = torch.Generator().manual_seed(len(name))
        with torch.no_grad():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return adapters


@pytest.mark.parametrize("way", [{"step_by_step": False}, {"step_by_step": True}])
@pytest.mark.parametrize("variant", ["lora", "dora", "lokr"])
def test_answers_and_gradients_are_those_of_diffusers_own_attention(unet, way, variant):
    chosen = deepcopy(unet)
    plain, joined = _adapted(unet, variant=variant), _adapted(chosen, variant=variant)
    choose_attention(chosen, join=True, **way)
    for network in (unet, chosen):
        _predict(network).square().mean().backward()
    assert torch.allclose(_predict(chosen), _predict(unet), atol=1e-5)
    mine, theirs = joined.named_parameters(), plain.named_parameters()
    for name, weight in mine.items():
        wanted = theirs[name].grad
        assert float((weight.grad - wanted).norm() / wanted.norm()) < 1e-3, name


def test_plain_loras_are_joined_without_a_second_copy_of_the_weights(unet):
    size = sum(weight.untyped_storage().nbytes() for weight in unet.parameters())
    add_adapters({"unet": unet}, TrainingParams(rank=4, seed=1))
    choose_attention(unet, step_by_step=False, join=True)
    attentions = [m for m in unet.modules() if type(m).__name__ == "Attention"]
    assert all(isinstance(module.processor, JoinedAttention) for module in attentions)
    kept = [weight.untyped_storage() for weight in unet.parameters() if not weight.requires_grad]
    frozen = {storage.data_ptr(): storage.nbytes() for storage in kept}
    assert sum(frozen.values()) == size


def test_what_is_switched_off_or_made_small_later_is_followed(unet):
    other = deepcopy(unet)
    before = _predict(unet).detach()
    plain, joined = _adapted(unet), _adapted(other)
    choose_attention(other, step_by_step=False, join=True)
    with joined.off():
        assert torch.allclose(_predict(other), before, atol=1e-5)
    assert plain.layers.keys() == joined.layers.keys()
    for network in (unet, other):
        quantize(network, "int8")
    assert torch.allclose(_predict(other), _predict(unet), atol=1e-5)
