"""The adapter bank over the real small base."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.worker.random_modules import KINDS, Maker
from worker.ml.base_models.hashing import hash_networks
from worker.ml.base_models.load import load_base_model
from worker.ml.inference.bank import PARTS, AdapterBank
from worker.ml.inference.errors import LoraHashMismatch, LoraMatchesNothing, LoraShapeMismatch
from worker.ml.inference.generate import generate
from worker.ml.inference.spec import LoraWeights
from worker.ml.lora_files.modules import LohaModule, Lora, LoraModule, change


def _unet_output(unet):
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        return unet(
            torch.randn(2, 4, 16, 16, generator=generator),
            torch.tensor(500),
            encoder_hidden_states=torch.randn(2, 77, 256, generator=generator),
            added_cond_kwargs={
                "text_embeds": torch.randn(2, 128, generator=generator),
                "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2),
            },
            return_dict=False,
        )[0]


def _relative(found, expected):
    return float((found - expected).norm() / expected.norm())


# peft remarks on a second adapter, which is what is wanted here.
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_merged_and_stacked_equal_diffusers_load_and_set_adapters(
    handle, base_spec, policy, make_lora, save_lora, count
):
    from diffusers import StableDiffusionXLPipeline

    weights = [1.0, 0.6, -0.4, 0.3, -0.8][:count]
    specs = [save_lora(make_lora(seed, "attn"), weight) for seed, weight in enumerate(weights)]
    bank = handle.bank
    bare = _unet_output(handle.base.unet)
    uses = [(bank.load(Path(s.path), s.sha256), s.weights) for s in specs]
    bank.activate([])
    with bank.stacked(policy.device) as stack:
        stack.set([uses, uses], copies=1)
        stacked = _unet_output(handle.base.unet)
    bank.activate(uses)
    ours = _unet_output(handle.base.unet)

    base = load_base_model(base_spec.location, None, policy)
    theirs = StableDiffusionXLPipeline(
        **base.networks(),
        tokenizer=base.tokenizer,
        tokenizer_2=base.tokenizer_2,
        scheduler=handle.pipeline.scheduler,
        add_watermarker=False,
    )
    for i, spec in enumerate(specs):
        theirs.load_lora_weights(spec.path, adapter_name=f"a{i}")
    theirs.set_adapters([f"a{i}" for i in range(count)], weights)
    expected = _unet_output(theirs.unet)

    assert _relative(bare, expected) > 0.05
    assert _relative(ours, expected) < 1e-4
    assert _relative(stacked, expected) < 1e-4
    assert _relative(stacked, ours) < 1e-4
    for name in ("text_encoder", "text_encoder_2"):
        tokens = torch.arange(77)[None] + 300
        with torch.no_grad():
            found = getattr(handle.base, name)(tokens).last_hidden_state
            wanted = getattr(theirs, name)(tokens).last_hidden_state
        assert _relative(found, wanted) < 1e-4, name


def test_alpha_and_rank_of_each_module_are_applied_by_definition(
    handle, modules, make_lora, save_lora
):
    # Feed-forward linears, convolutions, text encoders: all that a LoRA may change.
    lora = make_lora(3, "", ranks=(2, 4, 8), alphas=(1.0, 8.0, 3.0, 0.5))
    before = {path: module.weight.clone() for path, module in modules.items()}
    spec = save_lora(lora)
    banked = handle.bank.load(Path(spec.path), spec.sha256)
    assert not banked.unmatched

    handle.bank.activate([(banked, 0.7)])

    for path, pair in lora.modules.items():
        down, up = pair.down.double().flatten(1), pair.up.double().flatten(1)
        delta = 0.7 * (pair.alpha / pair.rank) * (up @ down).view_as(before[path])
        expected = before[path].double() + delta
        assert _relative(modules[path].weight.double(), expected) < 1e-6, path
        assert not torch.equal(modules[path].weight, before[path])


def _of_kind(modules, kind, pattern=""):
    maker = Maker(KINDS.index(kind))
    return Lora(
        {
            path: getattr(maker, kind)(module.weight.detach())
            for path, module in modules.items()
            # The first convolution's four channels are too few for some kinds.
            if pattern in path and not path.endswith(("conv_in", "conv_out"))
        }
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_merged_by_its_definition_and_taken_out_to_the_bit(handle, modules, kind):
    start = hash_networks(handle.base.networks())
    before = {path: module.weight.clone() for path, module in modules.items()}
    lora = _of_kind(modules, kind)
    assert len(lora.modules) > 50
    banked = handle.bank.put("a" * 64, lora)

    handle.bank.activate([(banked, -0.6)])
    for path, module in lora.modules.items():
        moved = -0.6 * change(module, before[path]).view_as(before[path])
        assert _relative(modules[path].weight - before[path], moved) < 1e-4, path
    handle.bank.activate([(banked, 0.0)])
    assert hash_networks(handle.base.networks()) == start


def test_a_mix_of_kinds_adds_up_in_any_order_to_the_same_bits(handle, modules):
    start = hash_networks(handle.base.networks())
    before = {path: module.weight.clone() for path, module in modules.items()}
    kinds = ["lora", "dora", "loha", "lokr", "tucker", "lora"]
    loras = [
        handle.bank.put(f"{i:064x}", _of_kind(modules, kind, "mid_block"))
        for i, kind in enumerate(kinds)
    ]
    wanted = [(lora, 0.1 * i - 0.25) for i, lora in enumerate(loras)]
    handle.bank.activate(wanted)
    weights = hash_networks(handle.base.networks())

    for path in loras[0].lora.modules:
        pristine = before[path].double()
        moves = [
            weight * change(banked.lora.modules[path], before[path]).double()
            for banked, weight in wanted
        ]
        expected = pristine + sum(moves).view_as(pristine)
        assert _relative(modules[path].weight.double(), expected) < 1e-6, path
    draw = random.Random(3)
    for _ in range(5):
        draw.shuffle(wanted)
        handle.bank.activate([])
        assert hash_networks(handle.base.networks()) == start
        handle.bank.activate(wanted)
        assert hash_networks(handle.base.networks()) == weights


def test_token_vectors_stay_with_the_lora(handle, make_lora):
    vectors = {"text_encoder": torch.ones(2, 128)}
    lora = replace(make_lora(1), embeddings=vectors, trigger="emo")
    banked = handle.bank.put("a" * 64, lora)
    assert banked.lora.embeddings is vectors
    assert banked.lora.trigger == "emo"


def test_weight_zero_and_the_empty_set_give_the_base_back_to_the_bit(handle, make_lora):
    start = hash_networks(handle.base.networks())
    banked = handle.bank.put("a" * 64, make_lora(1, ""))
    handle.bank.activate([(banked, 0.8)])
    assert hash_networks(handle.base.networks()) != start

    handle.bank.activate([(banked, 0.0)])
    assert hash_networks(handle.base.networks()) == start
    handle.bank.activate([(banked, 0.8)])
    handle.bank.activate([])
    assert hash_networks(handle.base.networks()) == start


def test_a_thousand_random_switches_leave_no_trace(handle, modules, make_lora, make_spec):
    start = hash_networks(handle.base.networks())
    reference = generate(handle, make_spec(), lambda *_: None, lambda: False).images[0].image
    patterns = ("attn1", "attn2", "ff", "text_encoder", "resnets", "mid_block", "down_blocks.1")
    loras = [make_lora(i, pattern) for i, pattern in enumerate(patterns)]
    loras += [_of_kind(modules, kind, "up_blocks.1") for kind in ("dora", "loha", "lokr")]
    loras += [_of_kind(modules, "tucker", "resnets"), make_lora(99, "", ranks=(1, 3, 8))]
    banked = [handle.bank.put(f"{i:064x}", lora) for i, lora in enumerate(loras)]
    assert len(banked) == 12
    draw = random.Random(5)
    written = 0
    for _ in range(1000):
        wanted = [(lora, _random_weights(draw)) for lora in draw.sample(banked, draw.randint(0, 5))]
        parts = draw.choice([("unet",), ("text_encoder", "text_encoder_2"), PARTS])
        written += handle.bank.activate(wanted, parts).modules_written
    assert written > 50_000
    assert hash_networks(handle.base.networks()) != start
    handle.bank.activate([])

    assert hash_networks(handle.base.networks()) == start
    again = generate(handle, make_spec(), lambda *_: None, lambda: False).images[0].image
    assert again.tobytes() == reference.tobytes()


def _random_weights(draw):
    if draw.random() < 0.5:
        return draw.uniform(-1.5, 1.5)
    blocks = {"unet.mid_block": draw.uniform(-1, 1), "unet.up_blocks.1": 0.0}
    return LoraWeights(unet=draw.uniform(-1, 1), text_encoder=draw.uniform(-1, 1), blocks=blocks)


def test_a_block_has_its_own_weight_and_the_longest_name_decides(handle, modules, make_lora):
    lora = make_lora(1, "")
    banked = handle.bank.put("a" * 64, lora)
    weights = LoraWeights(
        unet=0.5,
        text_encoder=-0.25,
        blocks={
            "unet.down_blocks": 0.0,
            "unet.down_blocks.1.attentions.0": 2.0,
            "text_encoder_2": 1.5,
        },
    )
    before = {path: module.weight.clone() for path, module in modules.items()}
    handle.bank.activate([(banked, weights)])
    for path, module in modules.items():
        if path.startswith("unet.down_blocks.1.attentions.0."):
            expected = 2.0
        elif path.startswith("unet.down_blocks."):
            expected = 0.0
        elif path.startswith("unet."):
            expected = 0.5
        else:
            # `text_encoder_2` is no part of `text_encoder`.
            expected = 1.5 if path.startswith("text_encoder_2.") else -0.25
        moved = module.weight - before[path]
        wanted = expected * change(lora.modules[path], before[path]).view_as(moved)
        assert torch.allclose(moved, wanted, atol=1e-5), path


def test_one_part_can_be_brought_to_a_set_of_its_own(handle, modules, make_lora):
    banked = handle.bank.put("a" * 64, make_lora(1, ""))
    before = {path: module.weight.clone() for path, module in modules.items()}
    handle.bank.activate([(banked, 1.0)], parts=("text_encoder",))
    changed = {
        path for path, module in modules.items() if not torch.equal(module.weight, before[path])
    }
    assert changed == {path for path in modules if path.startswith("text_encoder.")}
    handle.bank.activate([(banked, 1.0)], parts=("unet",))
    handle.bank.activate([], parts=("text_encoder",))
    changed = {
        path for path, module in modules.items() if not torch.equal(module.weight, before[path])
    }
    assert changed == {path for path in modules if path.startswith("unet.")}


def test_the_same_set_again_writes_nothing_in_any_order(handle, make_lora):
    a = handle.bank.put("a" * 64, make_lora(1, "attn1"))
    b = handle.bank.put("b" * 64, make_lora(2, "attn"))
    first = handle.bank.activate([(a, 0.5), (b, 0.25)])
    weights = hash_networks(handle.base.networks())

    assert first.modules_written == len(b.lora.modules)
    assert handle.bank.activate([(b, 0.25), (a, 0.5)]).modules_written == 0
    # Modules that only the other LoRA changes stay as they are.
    assert handle.bank.activate([(b, 0.25)]).modules_written == len(a.lora.modules)
    handle.bank.activate([(b, 0.25), (a, 0.5)])
    assert hash_networks(handle.base.networks()) == weights


def test_weights_are_changed_in_place(handle, modules, make_lora):
    pointers = {path: module.weight.data_ptr() for path, module in modules.items()}
    handle.bank.activate([(handle.bank.put("a" * 64, make_lora(1, "")), 1.0)])
    assert {path: module.weight.data_ptr() for path, module in modules.items()} == pointers


def test_a_switch_that_breaks_off_is_made_good_by_the_next(handle, make_lora, monkeypatch):
    start = hash_networks(handle.base.networks())
    banked = handle.bank.put("a" * 64, make_lora(1, "attn"))
    calls = []
    real = torch.addmm

    def fails_at_the_tenth(*args):
        calls.append(1)
        if len(calls) == 10:
            raise torch.OutOfMemoryError("no memory left")
        return real(*args)

    monkeypatch.setattr(torch, "addmm", fails_at_the_tenth)
    with pytest.raises(torch.OutOfMemoryError):
        handle.bank.activate([(banked, 1.0)])
    monkeypatch.undo()
    handle.bank.activate([])
    assert hash_networks(handle.base.networks()) == start


def test_a_lora_that_matches_nothing_is_refused_and_changes_nothing(handle, make_lora):
    good = handle.bank.put("a" * 64, make_lora(1, "attn"))
    handle.bank.activate([(good, 1.0)])
    weights = hash_networks(handle.base.networks())
    module = LoraModule(torch.ones(2, 8), torch.ones(8, 2), 2.0)
    foreign = handle.bank.put("f" * 64, Lora({"unet.somewhere.else": module}))

    with pytest.raises(LoraMatchesNothing, match=r"unet\.somewhere\.else"):
        handle.bank.activate([(foreign, 0.0)])
    assert hash_networks(handle.base.networks()) == weights


def test_the_report_names_what_matched_and_what_did_not(handle, make_lora):
    lora = make_lora(1, "attn2.to_k")
    module = next(iter(lora.modules.values()))
    mixed = replace(lora, modules={**lora.modules, "unet.nowhere": module})
    banked = handle.bank.put("a" * 64, mixed, ["foreign.key"])

    (report,) = handle.bank.activate([(banked, 0.5)]).reports
    assert report.matched == tuple(lora.modules)
    assert report.unmatched == ("foreign.key", "unet.nowhere")
    assert report.weight == 0.5


def test_matrices_of_another_base_are_refused_by_shape(handle, make_lora):
    path = next(iter(make_lora(1).modules))
    lora = Lora({path: LoraModule(torch.ones(4, 999), torch.ones(64, 4), 4.0)})
    with pytest.raises(LoraShapeMismatch, match="999"):
        handle.bank.put("a" * 64, lora)


def test_a_loha_of_another_base_is_refused_by_shape(handle, make_lora):
    path = next(iter(make_lora(1).modules))
    halves = [torch.ones(64, 4), torch.ones(4, 999)] * 2
    with pytest.raises(LoraShapeMismatch, match=r"hada_w1_b.*999"):
        handle.bank.put("a" * 64, Lora({path: LohaModule(*halves, 4.0)}))


def test_magnitudes_of_another_base_are_refused_by_shape(handle, modules, make_lora):
    path, module = next(iter(make_lora(1).modules.items()))
    width = modules[path].weight.shape[1]
    for wrong in (torch.ones(999, 1), torch.ones(1, width + 1), torch.ones(width)):
        with pytest.raises(LoraShapeMismatch, match="magnitudes of shape"):
            handle.bank.put("a" * 64, Lora({path: replace(module, dora_scale=wrong)}))


def test_a_file_of_another_hash_is_refused(handle, make_lora, save_lora):
    spec = save_lora(make_lora(1))
    with pytest.raises(LoraHashMismatch, match=spec.sha256):
        handle.bank.load(Path(spec.path), "e" * 64)


def test_a_file_is_parsed_once_and_the_least_used_goes_first(
    base_spec, policy, make_lora, save_lora
):
    networks = load_base_model(base_spec.location, None, policy, ["unet"]).networks()
    loras = [make_lora(seed) for seed in range(3)]
    bank = AdapterBank(networks, capacity_bytes=2 * loras[0].nbytes)
    specs = [save_lora(lora) for lora in loras]
    a, b, c = (lambda s=s: bank.load(Path(s.path), s.sha256) for s in specs)

    first_a, first_b = a(), b()
    assert a() is first_a
    c()
    assert a() is first_a
    assert b() is not first_b
    assert bank.kept_bytes <= 2 * loras[0].nbytes
