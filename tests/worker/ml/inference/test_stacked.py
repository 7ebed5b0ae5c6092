"""Rows of one batch with LoRAs of their own."""

from contextlib import suppress

import pytest
import torch

from tests.worker.random_modules import Maker
from worker.ml.inference import stacked
from worker.ml.inference.spec import LoraWeights
from worker.ml.inference.stacked import stackable
from worker.ml.lora_files.modules import Lora

WHOLE = LoraWeights()
CPU = torch.device("cpu")


def unet_rows(unet, copies=1):
    """Three rows of noise, each `copies` times side by side."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(3, 4, 16, 16, generator=generator)
    text = torch.randn(3, 77, 256, generator=generator)
    pooled = torch.randn(3, 128, generator=generator)
    with torch.no_grad():
        return unet(
            inputs.repeat_interleave(copies, dim=0),
            torch.tensor(500),
            encoder_hidden_states=text.repeat_interleave(copies, dim=0),
            added_cond_kwargs={
                "text_embeds": pooled.repeat_interleave(copies, dim=0),
                "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 3 * copies),
            },
            return_dict=False,
        )[0]


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def rows_merged(handle, rows):
    """Row by row through the merged base."""
    outputs = []
    for number, row in enumerate(rows):
        handle.bank.activate(row)
        outputs.append(unet_rows(handle.base.unet)[number])
    handle.bank.activate([])
    return torch.stack(outputs)


@pytest.mark.parametrize("merged_rows", [True, False])
def test_each_row_gets_what_its_own_set_merged_would_give(
    handle, make_lora, monkeypatch, merged_rows
):
    """Linears, 1×1 and 3×3 convolutions with strides, ranks and alphas of each module's own."""
    if not merged_rows:
        monkeypatch.setattr(stacked, "MERGED_ROWS_BYTES", 0)
    a = handle.bank.put("a" * 64, make_lora(1, "unet", ranks=(2, 5), alphas=(1.0, 3.0)))
    b = handle.bank.put("b" * 64, make_lora(2, "resnets", ranks=(3,)))
    c = handle.bank.put("c" * 64, make_lora(3, "samplers", ranks=(4,)))
    rows = [
        [(a, WHOLE), (b, LoraWeights(unet=-0.5))],
        [],
        [(c, LoraWeights(unet=0.7, blocks={"unet.up_blocks": -1.0})), (a, LoraWeights(unet=0.2))],
    ]
    expected = rows_merged(handle, rows)
    bare = unet_rows(handle.base.unet)
    with handle.bank.stacked(CPU) as stack:
        stack.set(rows, copies=2)
        found = unet_rows(handle.base.unet, copies=2)
    assert relative(found[0], bare[0]) > 0.05
    for number in range(3):
        assert relative(found[2 * number], expected[number]) < 1e-4, number
        assert relative(found[2 * number + 1], expected[number]) < 1e-4, number
    assert torch.allclose(found[2], bare[1], atol=1e-5)


def test_a_tucker_convolution_is_a_pair_too(handle, modules):
    path = next(p for p in sorted(modules) if p.startswith("unet.") and p.endswith("conv1"))
    module = Maker(3).tucker(modules[path].weight.detach())
    banked = handle.bank.put("a" * 64, Lora({path: module}))
    assert banked.stackable
    rows = [[(banked, WHOLE)]] * 3
    expected = rows_merged(handle, rows)
    with handle.bank.stacked(CPU) as stack:
        stack.set(rows, copies=1)
        assert relative(unet_rows(handle.base.unet), expected) < 1e-4


@pytest.mark.parametrize("kind", ["dora", "loha", "lokr"])
def test_what_is_no_pair_is_refused(handle, modules, kind):
    path = next(p for p in sorted(modules) if p.startswith("unet.") and p.endswith("to_q"))
    module = getattr(Maker(3), kind)(modules[path].weight.detach())
    assert not stackable(module)
    banked = handle.bank.put("a" * 64, Lora({path: module}))
    assert not banked.stackable
    with handle.bank.stacked(CPU) as stack, pytest.raises(ValueError, match="only plain pairs"):
        stack.set([[(banked, WHOLE)]], copies=1)


def test_nothing_stays_behind_even_after_an_error(handle, make_lora):
    banked = handle.bank.put("a" * 64, make_lora(1, "unet"))
    bare = unet_rows(handle.base.unet)
    with suppress(RuntimeError), handle.bank.stacked(CPU) as stack:
        stack.set([[(banked, WHOLE)]] * 3, copies=1)
        assert not torch.equal(unet_rows(handle.base.unet), bare)
        raise RuntimeError("broken off")
    assert torch.equal(unet_rows(handle.base.unet), bare)
