"""ΔW of every kind, against the layers of PEFT and against convolutions run one after another."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from worker.ml.lora_files.contents import sort_tensors
from worker.ml.lora_files.modules import LohaModule, LokrModule, LoraModule, change

# Written by lycoris-lora 4.1.3: the state dicts of its LoCon, LoHa and LoKr modules, plain, Tucker
# and with magnitudes by rows (and rank-stabilised) or by columns.
LYCORIS = Path(__file__).parents[3] / "data" / "lycoris_modules.safetensors"
TARGETS = ("linear", "wide", "conv", "pointwise")


class Small(nn.Module):
    """A linear each way, a 3×3 and a 1×1 convolution."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(24, 36)
        self.wide = nn.Linear(96, 48, bias=False)
        self.conv = nn.Conv2d(8, 12, 3, padding=1)
        self.pointwise = nn.Conv2d(8, 16, 1)


def peft_configs():
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    targets = {"target_modules": list(TARGETS)}
    own = {"rank_pattern": {"wide": 6}, "alpha_pattern": {"wide": 3, "conv": 5}}
    lora = {"r": 4, "lora_alpha": 2, "init_lora_weights": False} | targets
    other = {"r": 4, "alpha": 2, "init_weights": False} | targets
    return {
        "LoRA": LoraConfig(**lora),
        "LoRA with ranks of their own": LoraConfig(**lora, **own),
        "rsLoRA": LoraConfig(**lora, use_rslora=True),
        "DoRA": LoraConfig(**lora, use_dora=True),
        "rsDoRA with ranks of their own": LoraConfig(**lora, **own, use_dora=True, use_rslora=True),
        "LoHa": LoHaConfig(**other),
        "LoHa, Tucker": LoHaConfig(**other, **own, use_effective_conv2d=True),
        "LoKr": LoKrConfig(**(other | {"r": 2})),
        "LoKr, both low-rank": LoKrConfig(**(other | {"r": 1}), decompose_both=True),
        "LoKr, Tucker": LoKrConfig(
            **(other | {"r": 1, "target_modules": ["conv"]}), use_effective_conv2d=True
        ),
        "LoKr, both whole": LoKrConfig(**(other | {"r": 32, "alpha": 32})),
        # Of two whole factors PEFT's scale is alpha / r, LyCORIS' is 1.
        "LoKr, both whole and scaled": LoKrConfig(**(other | {"r": 32, "alpha": 12}), **own),
        "LoKr, factor 4": LoKrConfig(**(other | {"r": 2}), decompose_factor=4),
    }


def relative(found, expected):
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("kind", list(peft_configs()))
def test_the_change_is_what_peft_merges_into_the_weight(kind, tmp_path):
    from peft import inject_adapter_in_model
    from peft.utils import get_peft_model_state_dict

    config = peft_configs()[kind]
    torch.manual_seed(0)
    network = Small()
    pristine = {name: getattr(network, name).weight.detach().clone() for name in TARGETS}
    inject_adapter_in_model(config, network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "magnitude" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    # Through a file: that is how they come.
    tensors = {name: value.clone() for name, value in get_peft_model_state_dict(network).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    written = {
        name: value for name, value in config.to_dict().items() if "pattern" in name or name == "r"
    }
    written["lora_alpha"] = getattr(config, "lora_alpha", None) or config.alpha
    written["use_rslora"] = getattr(config, "use_rslora", False)

    contents = sort_tensors(
        load_file(tmp_path / "a.safetensors"), {"lora_adapter_metadata": json.dumps(written)}
    )

    assert contents.unknown == ()
    assert set(contents.modules) == set(config.target_modules)
    for name, module in contents.modules.items():
        layer = getattr(network, name)
        layer.merge()
        expected = layer.base_layer.weight.detach() - pristine[name]
        found = change(module, pristine[name])
        assert relative(found, expected.flatten(1)) < 1e-5, name
        assert module.matrix_shape == tuple(expected.flatten(1).shape)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_a_tucker_decomposed_locon_is_three_convolutions():
    torch.manual_seed(1)
    down, mid, up = draw(4, 8, 1, 1), draw(4, 4, 3, 3), draw(12, 4, 1, 1)
    picture = draw(2, 8, 7, 7)
    steps = functional.conv2d(picture, down)
    steps = functional.conv2d(functional.conv2d(steps, mid, padding=1), up) * 0.5
    module = LoraModule(down, up, alpha=2.0, mid=mid)
    assert module.matrix_shape == (12, 72)
    at_once = functional.conv2d(picture, module.delta().double().view(12, 8, 3, 3), padding=1)
    assert relative(at_once, steps) < 1e-6


def test_loha_of_a_convolution_is_a_product_of_two_low_rank_ones():
    torch.manual_seed(2)
    w1_a, w1_b, w2_a, w2_b = draw(12, 4), draw(4, 72), draw(12, 4), draw(4, 72)
    delta = LohaModule(w1_a, w1_b, w2_a, w2_b, alpha=1.0).delta()
    for row, column in ((0, 0), (11, 71), (5, 33)):
        expected = 0.25 * (w1_a[row] @ w1_b[:, column]) * (w2_a[row] @ w2_b[:, column])
        assert float(delta[row, column]) == pytest.approx(float(expected), rel=1e-5)


def test_lokr_of_a_convolution_repeats_the_kernel_by_the_first_factor():
    torch.manual_seed(3)
    w1, w2_a, w2_b = draw(3, 2), draw(4, 5), draw(5, 4 * 9)
    delta = LokrModule(w1=w1, w2_a=w2_a, w2_b=w2_b, alpha=10.0).delta().view(12, 8, 3, 3)
    block = (w2_a @ w2_b).view(4, 4, 3, 3)
    for out_1 in range(3):
        for in_1 in range(2):
            found = delta[4 * out_1 : 4 * out_1 + 4, 4 * in_1 : 4 * in_1 + 4]
            assert relative(found, 2.0 * w1[out_1, in_1] * block) < 1e-6


def test_two_whole_lokr_factors_have_scale_one_whatever_alpha_says():
    w1, w2 = torch.randn(2, 3), torch.randn(4, 5)
    delta = LokrModule(w1=w1, w2=w2, alpha=7.0).delta()
    assert torch.equal(delta, torch.kron(w1, w2))


@pytest.mark.parametrize("shape", [(12, 8), (12, 8, 3, 3)])
def test_dora_by_columns_gives_each_input_its_magnitude(shape):
    torch.manual_seed(4)
    weight = torch.randn(shape)
    down, up = torch.randn(4, *shape[1:]), torch.randn(12, 4, *[1] * (len(shape) - 2))
    magnitudes = torch.rand(1, 8, *[1] * (len(shape) - 2)) + 0.5
    moved = weight + change(LoraModule(down, up, 2.0, magnitudes), weight).view(shape)
    for column in range(8):
        assert float(moved[:, column].norm()) == pytest.approx(float(magnitudes[0, column]), 1e-4)


def test_dora_leaves_a_row_of_zeros_alone():
    weight = torch.zeros(3, 4)
    module = LoraModule(torch.zeros(2, 4), torch.zeros(3, 2), 2.0, torch.ones(3, 1))
    assert torch.equal(change(module, weight), torch.zeros(3, 4))


def lycoris_cases():
    """By case: a module's tensors, the weight it was made for, and that weight with it merged."""
    cases: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(LYCORIS).items():
        case, _, key = name.partition("/")
        cases.setdefault(case, {})[key] = tensor
    return cases


@pytest.mark.parametrize("case", sorted(lycoris_cases()))
def test_modules_made_by_lycoris_give_the_weights_that_it_merged(case):
    tensors = lycoris_cases()[case]
    pristine, merged = tensors.pop("pristine"), tensors.pop("merged")
    contents = sort_tensors(tensors, {})
    assert contents.unknown == ()
    assert contents.layout == "kohya"
    found = change(contents.modules["lora_unet_x"], pristine)
    assert relative(found, (merged - pristine).flatten(1)) < 1e-5
