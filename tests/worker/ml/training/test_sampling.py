"""Random choices are functions of the seed and the step, and of nothing else."""

from collections import Counter

import pytest
import torch

from app.trainings.params import TrainingParams
from worker.ml.training import sampling
from worker.ml.training.parallel import Group

BUCKETS = {(64, 64): [0, 0, 1, 1, 2, 2, 3], (48, 80): [4, 5]}


def test_an_epoch_shows_every_picture_as_often_as_it_repeats_in_batches_of_one_bucket():
    batches = sampling.epoch_batches(BUCKETS, 3, seed=1, epoch=0)
    shown = Counter(number for batch in batches for number in batch)
    assert shown == Counter([0, 0, 1, 1, 2, 2, 3, 4, 5])
    assert sorted(len(batch) for batch in batches) == [1, 2, 3, 3]
    assert all(set(batch) <= {0, 1, 2, 3} or set(batch) <= {4, 5} for batch in batches)


def test_epochs_and_seeds_differ_and_the_same_ones_agree():
    first = sampling.epoch_batches(BUCKETS, 3, seed=1, epoch=0)
    assert sampling.epoch_batches(BUCKETS, 3, seed=1, epoch=0) == first
    assert sampling.epoch_batches(BUCKETS, 3, seed=1, epoch=1) != first
    assert sampling.epoch_batches(BUCKETS, 3, seed=2, epoch=0) != first


def test_noise_does_not_depend_on_what_was_drawn_before():
    noise = sampling.noise_for((2, 4, 8, 8), 5, 120)
    torch.manual_seed(99)
    sampling.noise_for((2, 4, 8, 8), 5, 119)
    assert torch.equal(sampling.noise_for((2, 4, 8, 8), 5, 120), noise)
    assert not torch.equal(sampling.noise_for((2, 4, 8, 8), 5, 121), noise)


def test_noise_offset_moves_whole_channels_by_its_size():
    plain = sampling.noise_for((64, 4, 8, 8), 5, 0)
    moved = sampling.noise_for((64, 4, 8, 8), 5, 0, TrainingParams(noise_offset=0.1)) - plain
    assert torch.allclose(moved, moved[:, :, :1, :1].expand_as(moved), atol=1e-6)
    assert float(moved[:, :, 0, 0].std()) == pytest.approx(0.1, rel=0.2)


def test_timesteps_cover_the_schedule():
    drawn = torch.cat([sampling.timesteps_for(100, 1, step, 1000) for step in range(50)])
    assert int(drawn.min()) < 10
    assert int(drawn.max()) > 989
    assert int(drawn.max()) < 1000


def test_timesteps_keep_to_their_range_and_lean_as_they_are_told():
    def drawn(**params):
        chosen = TrainingParams(**params)
        return torch.cat([sampling.timesteps_for(100, 1, n, 1000, chosen) for n in range(50)])

    some = drawn(min_timestep=200, max_timestep=300)
    assert (int(some.min()), int(some.max())) == (200, 299)
    middle = float(drawn().double().mean())
    assert middle == pytest.approx(499.5, abs=15)
    assert float(drawn(timestep_bias=1.0).double().mean()) > middle + 100
    assert float(drawn(timestep_bias=-1.0).double().mean()) < middle - 100


def test_octaves_of_noise_are_coarser_and_keep_each_picture_at_variance_1():
    params = TrainingParams(multires_noise_iterations=4, multires_noise_discount=0.8)
    noise = sampling.noise_for((16, 4, 32, 32), 5, 0, params)
    assert torch.allclose(noise.std(dim=(1, 2, 3)), torch.ones(16), atol=1e-5)
    # Neighbours are alike, which those of plain noise are not.
    plain = sampling.noise_for((16, 4, 32, 32), 5, 0)
    alike = [float((each[..., 1:] * each[..., :-1]).mean()) for each in (noise, plain)]
    assert alike[0] > 0.2
    assert abs(alike[1]) < 0.02


def test_two_devices_draw_what_one_would():
    whole = sampling.noise_for((6, 4, 8, 8), 5, 3, TrainingParams(noise_offset=0.1))
    parts = [Group(rank, 4).part(6) for rank in range(4)]
    assert [len(range(6)[part]) for part in parts] == [2, 2, 1, 1]
    assert torch.equal(torch.cat([whole[part] for part in parts]), whole)


def test_choices_are_even_over_0_to_1():
    drawn = [value for step in range(100) for value in sampling.choices_for(20, "flips", 1, step)]
    assert sum(value < 0.25 for value in drawn) / len(drawn) == pytest.approx(0.25, abs=0.03)
    assert all(0 <= value < 1 for value in drawn)
