"""Random choices are functions of the seed and the step, and of nothing else."""

from collections import Counter

import pytest
import torch

from worker.ml.training import sampling

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
    noise = sampling.noise_for((2, 4, 8, 8), 5, 120, 0.0)
    torch.manual_seed(99)
    sampling.noise_for((2, 4, 8, 8), 5, 119, 0.0)
    assert torch.equal(sampling.noise_for((2, 4, 8, 8), 5, 120, 0.0), noise)
    assert not torch.equal(sampling.noise_for((2, 4, 8, 8), 5, 121, 0.0), noise)


def test_noise_offset_moves_whole_channels_by_its_size():
    plain = sampling.noise_for((64, 4, 8, 8), 5, 0, 0.0)
    moved = sampling.noise_for((64, 4, 8, 8), 5, 0, 0.1) - plain
    assert torch.allclose(moved, moved[:, :, :1, :1].expand_as(moved), atol=1e-6)
    assert float(moved[:, :, 0, 0].std()) == pytest.approx(0.1, rel=0.2)


def test_timesteps_cover_the_schedule():
    drawn = torch.cat([sampling.timesteps_for(100, 1, step, 1000) for step in range(50)])
    assert int(drawn.min()) < 10
    assert int(drawn.max()) > 989
    assert int(drawn.max()) < 1000


def test_caption_dropout_happens_at_its_rate():
    choices = [
        choice for step in range(100) for choice in sampling.caption_choice(20, 4, 0.25, 1, step)
    ]
    dropped = choices.count(None) / len(choices)
    assert dropped == pytest.approx(0.25, abs=0.03)
    assert {choice for choice in choices if choice is not None} == {0, 1, 2, 3}
    assert None not in sampling.caption_choice(50, 1, 0.0, 1, 0)


def test_shuffled_captions_keep_every_token_and_the_first_ones_in_place():
    caption = "trigger, a, b, c, d, e"
    found = sampling.shuffled_captions(caption, 8, keep_tokens=2, seed=3)
    assert found[0] == caption
    assert len(set(found)) > 4
    for text in found:
        assert text.startswith("trigger, a, ")
        assert sorted(text.split(", ")) == sorted(caption.split(", "))


def test_a_caption_with_nothing_to_shuffle_has_as_many_variants():
    assert sampling.shuffled_captions("a red cat", 3, 1, 0) == ["a red cat"] * 3
    assert sampling.shuffled_captions("", 3, 1, 0) == [""] * 3
