"""Every kind in every layout: what is written says the same when it is read, here and elsewhere."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from app.lora_format.check import describe
from app.lora_format.errors import LoraLayoutUnsupported
from app.lora_format.index import LoraIndex
from app.lora_format.names import UnetShape
from tests.worker.random_modules import KINDS, Maker
from worker.ml.base_models.device import choose_policy
from worker.ml.base_models.load import BaseModel, load_base_model
from worker.ml.lora_files.modules import (
    AdapterModule,
    Lora,
    LoraModule,
    change,
)
from worker.ml.lora_files.read import read_lora
from worker.ml.lora_files.targets import adaptable_modules, index_of
from worker.ml.lora_files.write import write_lora

EMOJI = Path(__file__).parents[4] / "assets" / "emoji-64"
# Linears, 3×3 and 1×1 convolutions of the UNet, and both text encoders.
UNET_PARTS = ("attn2.to_k", "ff.net.0.proj", "resnets.0.conv1", "conv_shortcut", "time_emb_proj")
ALL_PARTS = (*UNET_PARTS, "q_proj", "mlp.fc1")


def load() -> BaseModel:
    return load_base_model(str(EMOJI), None, choose_policy("cpu"))


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return load()


@pytest.fixture(scope="module")
def weights(base) -> dict[str, Tensor]:
    found = adaptable_modules(base.networks())
    return {path: module.weight.detach() for path, module in found.items()}


@pytest.fixture(scope="module")
def index(base) -> LoraIndex:
    return index_of(base.networks())


@pytest.fixture(scope="module")
def shape(base) -> UnetShape:
    return UnetShape.of(base.unet.config)


def make(weights, kind, parts=ALL_PARTS, *, uniform=False) -> Lora:
    maker = Maker(KINDS.index(kind), uniform=uniform)
    modules: dict[str, AdapterModule] = {
        path: getattr(maker, kind)(weight)
        for path, weight in weights.items()
        if any(path.endswith(part) for part in parts)
    }
    assert len(modules) > 12
    return Lora(modules)


def assert_same_change(found: Lora, expected: Lora, weights, tolerance=1e-5):
    assert found.modules.keys() == expected.modules.keys()
    for path, module in expected.modules.items():
        wanted = change(module, weights[path])
        worst = float((change(found.modules[path], weights[path]) - wanted).norm() / wanted.norm())
        assert worst < tolerance, path


@pytest.mark.parametrize("kind", KINDS)
def test_kohyas_layout_keeps_every_kind(kind, weights, index, shape, tmp_path):
    lora = make(weights, kind)
    path = tmp_path / "a.safetensors"
    write_lora(path, lora, shape, {"ss_seed": "1"}, torch.float32)
    found, unmatched = read_lora(path, index)
    assert unmatched == ()
    assert_same_change(found, lora, weights)
    for name, module in lora.modules.items():
        assert type(found.modules[name]) is type(module)
        assert found.modules[name].alpha == module.alpha
    assert all(
        name.startswith(("lora_unet_", "lora_te1_", "lora_te2_")) for name in load_file(path)
    )


@pytest.mark.parametrize("kind", ["lora", "dora", "tucker"])
def test_from_kohya_to_diffusers_and_back_nothing_changes(kind, weights, index, shape, tmp_path):
    lora = make(weights, kind)
    path = tmp_path / "a.safetensors"
    found = lora
    for layout in ("kohya", "diffusers", "kohya", "diffusers"):
        write_lora(path, found, shape, {}, torch.float32, layout)
        assert describe(path).contents.layout == layout
        found, unmatched = read_lora(path, index)
        assert unmatched == ()
    assert_same_change(found, lora, weights)


def pipeline_of(base):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        **base.networks(),
        tokenizer=base.tokenizer,
        tokenizer_2=base.tokenizer_2,
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    )


def merged_changes(networks: dict[str, nn.Module], weights) -> dict[str, Tensor]:
    """What PEFT's layers add to the weights, by canonical path."""
    found = {}
    for component, network in networks.items():
        for name, layer in list(network.named_modules()):
            if hasattr(layer, "merge") and hasattr(layer, "base_layer"):
                layer.merge()
                flattened = component == "text_encoder" and not name.startswith("text_model.")
                path = f"{component}.{'text_model.' if flattened else ''}{name}"
                found[path] = (layer.base_layer.weight.detach() - weights[path]).flatten(1)
    return found


@pytest.mark.parametrize("read_metadata", [True, False], ids=["configured", "bare"])
@pytest.mark.parametrize("uniform", [True, False], ids=["one rank", "many ranks"])
@pytest.mark.parametrize("kind", ["lora", "dora", "tucker"])
def test_diffusers_loads_the_same_change(kind, uniform, read_metadata, weights, shape, tmp_path):
    lora = make(weights, kind, uniform=uniform)
    path = tmp_path / "a.safetensors"
    write_lora(path, lora, shape, {"ss_seed": "1"}, torch.float32, "diffusers")
    base = load()
    # Other programs read the tensors and not the configuration.
    pipeline_of(base).load_lora_weights(path if read_metadata else load_file(path))
    found = merged_changes({k: v for k, v in base.networks().items() if k != "vae"}, weights)
    assert found.keys() == lora.modules.keys()
    for name, module in lora.modules.items():
        wanted = change(module, weights[name])
        assert float((found[name] - wanted).norm() / wanted.norm()) < 1e-5, name


@pytest.mark.parametrize("kind", ["lora", "dora", "tucker", "loha", "loha_tucker"])
def test_peft_loads_the_same_change(kind, weights, index, shape, tmp_path):
    from peft import PeftModel

    lora = make(weights, kind, UNET_PARTS)
    lora = Lora({path: m for path, m in lora.modules.items() if path.startswith("unet.")})
    path = tmp_path / "adapter_model.safetensors"
    write_lora(path, lora, shape, {}, torch.float32, "peft")
    assert describe(path).contents.layout == "peft"
    found, unmatched = read_lora(path, index)
    assert unmatched == ()
    assert_same_change(found, lora, weights)

    unet = load_base_model(str(EMOJI), None, choose_policy("cpu"), ["unet"]).unet
    PeftModel.from_pretrained(unet, str(tmp_path))
    merged = merged_changes({"unet": unet}, weights)
    assert merged.keys() == lora.modules.keys()
    for name, module in lora.modules.items():
        wanted = change(module, weights[name])
        assert float((merged[name] - wanted).norm() / wanted.norm()) < 1e-5, name


def test_token_vectors_come_back_with_their_word(weights, index, shape, tmp_path):
    vectors = {"text_encoder": torch.randn(3, 128), "text_encoder_2": torch.randn(3, 128)}
    lora = Lora(make(weights, "lora").modules, {}, vectors, "<emo.ji>")
    path = tmp_path / "a.safetensors"
    write_lora(path, lora, shape, {})
    found, unmatched = read_lora(path, index)
    assert unmatched == ()
    assert found.trigger == "<emo.ji>"
    assert all(torch.equal(found.embeddings[name], vectors[name]) for name in vectors)
    with safe_open(path, "pt") as file:
        assert {"bundle_emb.<emo.ji>.clip_l", "bundle_emb.<emo.ji>.clip_g"} <= set(file.keys())


def test_a_small_scale_does_not_push_small_matrices_out_of_half_precision(
    weights, index, shape, tmp_path
):
    name = next(path for path in weights if path.endswith("attn2.to_k"))
    pair = Maker().lora(weights[name])
    lora = Lora({name: LoraModule(pair.down, pair.up * 1e-4, alpha=pair.rank / 256)})
    write_lora(tmp_path / "a.safetensors", lora, shape, {}, torch.float16, "diffusers")
    found = read_lora(tmp_path / "a.safetensors", index)[0]
    # Two roundings to eleven digits.
    assert_same_change(found, lora, weights, 2e-3)


def test_half_precision_keeps_magnitudes_and_odd_alphas_whole(weights, index, shape, tmp_path):
    weight = weights[next(path for path in weights if path.endswith("attn2.to_k"))]
    dora = Maker().dora(weight)
    odd = LoraModule(dora.down, dora.up, 16 * math.sqrt(32), dora.dora_scale)
    name = next(path for path in weights if path.endswith("attn2.to_k"))
    write_lora(tmp_path / "a.safetensors", Lora({name: odd}), shape, {}, torch.float16)
    found = read_lora(tmp_path / "a.safetensors", index)[0].modules[name]
    assert torch.equal(found.dora_scale, odd.dora_scale)
    assert found.alpha == pytest.approx(odd.alpha, rel=1e-7)
    assert found.tensors()["lora_up.weight"].dtype == torch.float16


def _mixed(weights):
    kinds = make(weights, "lora").modules
    name = next(iter(kinds))
    return Lora({**kinds, name: Maker().dora(weights[name])})


REFUSED = {
    "LoHa in diffusers": ("diffusers", lambda w: make(w, "loha"), "LoHa is not written"),
    "LoKr in diffusers": ("diffusers", lambda w: make(w, "lokr"), "LoKr is not written"),
    "columns": ("diffusers", lambda w: make(w, "dora_by_columns"), "by rows alone"),
    "some DoRA": ("diffusers", _mixed, r"1 of \d+ modules"),
    "vectors": (
        "diffusers",
        lambda w: Lora(make(w, "lora").modules, {}, {"text_encoder": torch.ones(1, 4)}, "emo"),
        "token vectors of emo",
    ),
    "text encoders in PEFT": ("peft", lambda w: make(w, "lora"), "one network"),
    "LoKr in PEFT": (
        "peft",
        lambda w: Lora({k: v for k, v in make(w, "lokr").modules.items() if k.startswith("unet.")}),
        "LoKr is not written",
    ),
    "vectors without a word": (
        "kohya",
        lambda w: Lora(make(w, "lora").modules, {}, {"text_encoder": torch.ones(1, 4)}),
        "no trigger word",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_layout_cannot_say_is_refused_and_nothing_written(case, weights, shape, tmp_path):
    layout, made, reason = REFUSED[case]
    with pytest.raises(LoraLayoutUnsupported, match=reason) as refused:
        write_lora(tmp_path / "a.safetensors", made(weights), shape, {}, layout=layout)
    assert refused.value.code == "lora_layout_unsupported"
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_beside_the_tensors_gives_each_module_scale_one(weights, shape, tmp_path):
    lora = make(weights, "lora")
    written = write_lora(tmp_path / "a.safetensors", lora, shape, {}, layout="diffusers")
    config = json.loads(written["lora_adapter_metadata"])
    for network in ("unet", "text_encoder", "text_encoder_2"):
        assert config[f"{network}.r"] == config[f"{network}.lora_alpha"]
        assert config[f"{network}.rank_pattern"] == config[f"{network}.alpha_pattern"]
        assert len(config[f"{network}.target_modules"]) == sum(
            path.startswith(f"{network}.") for path in lora.modules
        )
