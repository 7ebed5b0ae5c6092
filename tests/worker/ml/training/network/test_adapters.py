"""LoRA layers start as nothing, hold only what the target names, and read back as set."""

import math
from copy import deepcopy

import pytest
import torch

from app.trainings.params import TrainingParams
from worker.ml.base_models.device import choose_policy
from worker.ml.base_models.hashing import hash_networks, hash_tensors
from worker.ml.base_models.load import load_base_model
from worker.ml.lora_files.modules import Lora, change
from worker.ml.training.errors import WarmStartUnsuitable
from worker.ml.training.network.adapters import add_adapters, base_weights, choose, warm_start
from worker.ml.training.network.quantized import quantize
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


KINDS = ["lora", "dora", "loha", "lokr"]


def _shake(adapters, size=0.1):
    """Give every matrix some value, so that the change is far from nothing."""
    for name, weight in adapters.named_parameters().items():
        with torch.no_grad():
            generator = torch.Generator().manual_seed(len(name))
            noise = size * torch.randn(weight.shape, generator=generator)
            weight.copy_(weight * (1 + noise) if "dora_scale" in name else weight + noise)


@pytest.mark.parametrize("variant", KINDS)
@pytest.mark.parametrize("target", ["attention", "conv"])
def test_a_fresh_adapter_changes_nothing(unet, variant, target):
    before = _predict(unet)
    add_adapters({"unet": unet}, _params(variant=variant, target=target))
    # DoRA divides by a norm and multiplies with the same.
    assert torch.allclose(_predict(unet), before, atol=1e-5 if variant == "dora" else 0)


def test_the_bases_weights_keep_their_names_and_hash(unet):
    before = hash_networks({"unet": unet})
    add_adapters({"unet": unet}, _params(target="conv", variant="dora"))
    after = hash_tensors({f"unet.{name}": tensor for name, tensor in base_weights(unet).items()})
    assert after == before


@pytest.mark.parametrize("target", ["attention", "full", "conv"])
def test_only_the_targets_are_trained(unet, target):
    blocks = sum(type(module).__name__ == "BasicTransformerBlock" for module in unet.modules())
    wrappers = sum(type(module).__name__ == "Transformer2DModel" for module in unet.modules())
    resnets = [m for m in unet.modules() if type(m).__name__ == "ResnetBlock2D"]
    samplers = sum(type(m).__name__ in ("Downsample2D", "Upsample2D") for m in unet.modules())
    expected = 8 * blocks
    if target != "attention":
        expected += 2 * blocks + 2 * wrappers
    if target == "conv":
        expected += 3 * len(resnets) + samplers
        expected += sum(module.conv_shortcut is not None for module in resnets)
    adapters = add_adapters({"unet": unet}, _params(target=target))
    assert len(adapters.layers) == expected
    trained = {id(weight) for weight in unet.parameters() if weight.requires_grad}
    assert trained == {id(weight) for weight in adapters.named_parameters().values()}
    assert len(trained) == 2 * expected


def test_down_matrices_are_kaiming_uniform_and_a_function_of_the_seed(unet):
    for name, weight in add_adapters({"unet": unet}, _params(rank=16)).named_parameters().items():
        assert weight.dtype == torch.float32
        if name.endswith("lora_up.weight"):
            assert not weight.any()
            continue
        # kaiming_uniform_ with a = √5 is uniform over ±1/√fan_in, whose deviation is bound / √3.
        bound = 1 / math.sqrt(weight.shape[1])
        assert float(weight.detach().abs().max()) <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_the_same_seed_starts_the_same_way(unet):
    other = deepcopy(unet)
    torch.manual_seed(5)
    mine = add_adapters({"unet": unet}, _params()).named_parameters()
    torch.manual_seed(6)
    theirs = add_adapters({"unet": other}, _params()).named_parameters()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("variant", KINDS)
@pytest.mark.parametrize("stabilized", [False, True])
def test_what_is_exported_is_what_the_layers_apply(unet, variant, stabilized):
    """W0 + change(W0), by the file's own definition, answers as the trained layers do."""
    merged = deepcopy(unet)
    params = _params(variant=variant, target="conv", rank_stabilized=stabilized, conv_rank=2)
    adapters = add_adapters({"unet": unet}, params)
    _shake(adapters)
    for path, module in adapters.exported().modules.items():
        weight = merged.get_submodule(path.removeprefix("unet.")).weight
        weight.data += change(module, weight.data).view_as(weight)
    adapted = _predict(unet)
    with adapters.off():
        assert not torch.allclose(adapted, _predict(unet), atol=0.05)
    assert torch.allclose(_predict(merged), adapted, rtol=1e-3, atol=2e-4)


def test_rank_stabilised_alpha_is_written_for_readers_who_divide_by_the_rank(unet):
    adapters = add_adapters({"unet": unet}, _params(rank=16, alpha=8.0, rank_stabilized=True))
    module = next(iter(adapters.exported().modules.values()))
    assert module.scale == pytest.approx(8.0 / math.sqrt(16))


def test_blocks_have_ranks_alphas_and_rates_of_their_own(unet):
    blocks = [
        {"match": "unet.down_blocks", "rank": 8, "alpha": 1.0, "learning_rate": 0.5},
        {"match": "unet.down_blocks.1", "rank": 2},
        {"match": "unet.mid_block", "rank": 0},
    ]
    adapters = add_adapters({"unet": unet}, _params(blocks=blocks))
    ranks = {path: module.rank for path, module in adapters.exported().modules.items()}
    assert not any(path.startswith("unet.mid_block") for path in ranks)
    assert {r for path, r in ranks.items() if path.startswith("unet.down_blocks.1.")} == {2}
    assert {r for path, r in ranks.items() if path.startswith("unet.up_blocks")} == {4}
    groups = {group.learning_rate: len(group.parameters) for group in adapters.groups(_params())}
    down = sum(path.startswith("unet.down_blocks") for path in ranks)
    assert groups == {0.5: 2 * down, 1e-4: 2 * (len(ranks) - down)}


def test_leaving_out_every_block_is_refused(unet):
    with pytest.raises(ValueError, match="leaves no module"):
        add_adapters({"unet": unet}, _params(blocks=[{"match": "unet", "rank": 0}]))


def test_a_match_is_a_whole_name_and_convolutions_have_ranks_of_their_own(unet):
    params = _params(target="conv", conv_rank=2, conv_alpha=1.0)
    resnet = unet.down_blocks[0].resnets[0]
    assert choose("unet.down_blocks.0.resnets.0.conv1", resnet.conv1, params).rank == 2
    assert (
        choose("unet.down_blocks.0.resnets.0.time_emb_proj", resnet.time_emb_proj, params).rank == 4
    )
    one = _params(target="conv", blocks=[{"match": "unet.down_blocks.0.resnets.0.conv", "rank": 1}])
    assert choose("unet.down_blocks.0.resnets.0.conv1", resnet.conv1, one).rank == 4


def test_lora_plus_trains_the_up_matrices_faster(unet):
    params = _params(lora_plus_ratio=16.0)
    adapters = add_adapters({"unet": unet}, params)
    rates = {group.learning_rate: group.parameters for group in adapters.groups(params)}
    assert sorted(rates) == pytest.approx([1e-4, 16e-4])
    ups = {id(w) for name, w in adapters.named_parameters().items() if name.endswith("up.weight")}
    assert {id(weight) for weight in rates[max(rates)]} == ups


@pytest.mark.parametrize("variant", KINDS)
def test_norms_above_the_ceiling_are_scaled_back_and_others_stay(unet, variant):
    adapters = add_adapters({"unet": unet}, _params(variant=variant, target="conv"))
    _shake(adapters)
    before = {path: float(m.delta().norm()) for path, m in adapters.exported().modules.items()}
    ceiling = sorted(before.values())[len(before) // 2]
    adapters.limit_norms(ceiling)
    for path, module in adapters.exported().modules.items():
        assert float(module.delta().norm()) == pytest.approx(min(before[path], ceiling), rel=1e-4)


@pytest.mark.parametrize("variant", KINDS)
def test_a_warm_start_goes_on_from_the_same_change(unet, variant):
    other = deepcopy(unet)
    first = add_adapters({"unet": unet}, _params(variant=variant, alpha=2.0))
    _shake(first)
    stored = Lora(first.exported().modules)
    # Another alpha: the matrices must make up for it.
    second = add_adapters({"unet": other}, _params(variant=variant, alpha=4.0))
    assert warm_start(second, stored) == []
    assert torch.allclose(_predict(other), _predict(unet), atol=1e-4)


def test_a_warm_start_of_another_kind_rank_or_target_is_refused(unet):
    other, third, fourth = deepcopy(unet), deepcopy(unet), deepcopy(unet)
    stored = Lora(add_adapters({"unet": unet}, _params(target="full")).exported().modules)
    with pytest.raises(WarmStartUnsuitable, match=r"\d+ modules that are not trained here"):
        warm_start(add_adapters({"unet": other}, _params()), stored)
    with pytest.raises(WarmStartUnsuitable, match=r"lora_down.weight is \(4, \d+\); \(8, \d+\)"):
        warm_start(add_adapters({"unet": third}, _params(target="full", rank=8)), stored)
    with pytest.raises(WarmStartUnsuitable, match="hada_w1_a"):
        warm_start(add_adapters({"unet": fourth}, _params(target="full", variant="loha")), stored)


@pytest.mark.parametrize("storage", ["int8", "fp8"])
def test_over_quantised_weights_adapters_are_the_same_and_answers_near(unet, storage):
    before = _predict(unet)
    small = deepcopy(unet)
    saved = quantize(small, storage)
    assert saved > 0
    paths = add_adapters({"unet": unet}, _params(target="conv")).layers.keys()
    assert add_adapters({"unet": small}, _params(target="conv")).layers.keys() == paths
    error = float((_predict(small) - before).norm() / before.norm())
    assert 0 < error < (0.02 if storage == "int8" else 0.08)


@pytest.mark.parametrize("dropout", ["neuron_dropout", "rank_dropout", "module_dropout"])
def test_dropout_happens_in_training_alone_and_keeps_the_mean(unet, dropout):
    adapters = add_adapters({"unet": unet}, _params(target="conv", **{dropout: 0.5}))
    _shake(adapters, 0.02)
    unet.eval()
    whole = _predict(unet)
    assert torch.equal(_predict(unet), whole)
    unet.train()
    torch.manual_seed(0)
    drawn = [_predict(unet) for _ in range(4)]
    assert not torch.equal(drawn[0], drawn[1])
    torch.manual_seed(0)
    assert torch.equal(_predict(unet), drawn[0])
