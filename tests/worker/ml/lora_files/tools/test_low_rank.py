"""Singular values found through small cores are those of the whole ΔW."""

import pytest
import torch

from tests.worker.random_modules import KINDS
from worker.ml.lora_files.modules import LoraModule
from worker.ml.lora_files.tools.low_rank import (
    Pair,
    RankChoice,
    decompose,
    decompose_matrix,
    distance,
    low_rank_module,
    norm_of,
)


@pytest.mark.parametrize("kind", KINDS)
def test_singular_values_of_every_kind_are_those_of_the_whole_change(kind, make_lora):
    for path, module in make_lora(kind).modules.items():
        expected = torch.linalg.svdvals(module.delta().double())
        found = decompose(module)
        # ΔW itself comes in float32.
        assert torch.allclose(
            found.values, expected[: len(found.values)], rtol=1e-5, atol=1e-6 * expected[0]
        ), path
        assert float(expected[len(found.values) :].norm()) < 1e-5 * float(expected.norm())
        whole = found.left @ torch.diag(found.values) @ found.right
        assert float((whole - module.delta()).norm()) < 1e-5 * float(expected.norm()), path


def test_the_same_change_has_the_same_signs_however_it_is_written(make_lora):
    module = next(iter(make_lora(parts=("attn2.to_k",)).modules.values()))
    turned = LoraModule(-module.down.flip(0), -module.up.flip(1), module.alpha)
    first, second = decompose(module), decompose(turned)
    assert torch.allclose(first.left, second.left, atol=1e-9)
    assert torch.allclose(first.right, second.right, atol=1e-9)
    largest = first.left.abs().argmax(dim=0)
    assert bool((first.left[largest, torch.arange(len(largest))] > 0).all())
    assert bool((first.values.diff() <= 0).all())


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (6, 6)])
def test_a_whole_matrix_of_low_rank_has_no_more_values_than_its_rank(shape):
    generator = torch.Generator().manual_seed(1)
    up = torch.randn(shape[0], 5, generator=generator)
    matrix = (up @ torch.randn(5, shape[1], generator=generator)).double()
    found = decompose_matrix(matrix)
    assert len(found.values) == 5
    made = low_rank_module(found, 5, shape, torch.float32)
    assert float((made.delta() - matrix).norm() / matrix.norm()) < 1e-6


def test_a_change_that_is_nothing_stays_nothing():
    found = decompose_matrix(torch.zeros(4, 6))
    assert len(found.values) == 1
    made = low_rank_module(found, 1, (4, 6), torch.float16)
    assert torch.equal(made.delta(), torch.zeros(4, 6))


def test_the_best_rank_loses_no_more_than_the_values_left_out():
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(30, 20, generator=generator).double()
    found = decompose_matrix(matrix)
    made = low_rank_module(found, 7, (30, 20), torch.float64)
    values = torch.linalg.svdvals(matrix)
    lost = float((matrix - made.delta().double()).norm())
    assert lost == pytest.approx(float(values[7:].norm()), rel=1e-6)


def test_a_kept_share_is_the_lowest_rank_that_keeps_it():
    values = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    norm = float(values.norm())
    for share in (0.5, 0.9, 0.97, 0.999, 1.0):
        rank = RankChoice(keep=share).of(values)
        assert float(values[:rank].norm()) >= share * norm * (1 - 1e-9)
        assert rank == 1 or float(values[: rank - 1].norm()) < share * norm
    assert RankChoice(keep=1.0).of(values) == 4
    assert RankChoice(rank=2, keep=1.0).of(values) == 2


@pytest.mark.parametrize(
    ("rank", "keep", "reason"),
    [(0, None, "rank is 0; 1 to 512"), (513, None, "513"), (4, 0.0, "0.0"), (4, 1.1, "1.1")],
)
def test_choices_outside_their_range_are_refused(rank, keep, reason):
    with pytest.raises(ValueError, match=reason):
        RankChoice(rank, keep)


@pytest.mark.parametrize("kind", KINDS)
def test_distances_and_norms_are_those_of_the_whole_changes(kind, make_lora):
    first, second = make_lora(kind, 1), make_lora(kind, 2)
    for path, module in first.modules.items():
        other = second.modules[path]
        whole = (module.delta().double() - other.delta().double()).norm()
        assert distance(module, other) == pytest.approx(float(whole), rel=1e-5)
        assert norm_of(module) == pytest.approx(float(module.delta().norm()), rel=1e-5)
        assert distance(module, module) < 1e-7 * norm_of(module)


def test_a_weight_scales_a_pair():
    module = LoraModule(torch.ones(2, 3), torch.ones(4, 2), 1.0)
    assert torch.equal(Pair.of(module, -2.0).up, torch.full((4, 2), -1.0, dtype=torch.float64))
