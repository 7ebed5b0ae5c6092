"""Buckets and steps, counted by hand or as kohya's trainer counts them."""

import math

import pytest

from app.trainings.arithmetic import BucketPlan, ImageSize, held_out, plan_steps
from app.trainings.params import TrainingParams

SDXL = BucketPlan.for_base(1024, 8)
EMOJI = BucketPlan.for_base(64, 4)


def _image(width=1024, height=1024, repeats=None, number=0):
    return ImageSize(width, height, repeats, f"{number:064x}")


def _params(**changes):
    return TrainingParams(**{"seed": 1, "validation_fraction": 0.0, **changes})


def test_sdxl_buckets_are_those_of_256_to_2048_in_steps_of_64():
    sizes = SDXL.sizes()
    assert {(1024, 1024), (832, 1216), (1216, 832), (512, 2048), (768, 1344)} <= set(sizes)
    assert {(height, width) for width, height in sizes} == set(sizes)
    for width, height in sizes:
        assert width % 64 == height % 64 == 0
        assert 256 <= min(width, height) <= max(width, height) <= 2048
        assert width * height <= 1024**2


def test_a_small_bases_buckets_fit_its_vae_and_both_halvings_of_its_unet():
    assert (64, 64) in EMOJI.sizes()
    assert all(side % 16 == 0 for size in EMOJI.sizes() for side in size)


@pytest.mark.parametrize(
    ("picture", "bucket"),
    [((3000, 3000), (1024, 1024)), ((4000, 3000), (1152, 896)), ((900, 1600), (768, 1344))],
)
def test_a_picture_goes_to_the_bucket_of_the_nearest_aspect_ratio(picture, bucket):
    assert SDXL.nearest(*picture) == bucket
    assert SDXL.nearest(*picture[::-1]) == bucket[::-1]
    ratio = picture[0] / picture[1]
    best = min(abs(width / height - ratio) for width, height in SDXL.sizes())
    width, height = SDXL.nearest(*picture)
    assert math.isclose(abs(width / height - ratio), best)


def test_batches_are_counted_for_each_bucket_and_ragged_ones_stay():
    images = [_image(number=n) for n in range(3)] + [_image(900, 1600, 5, 3)]
    plan = plan_steps(images, _params(num_repeats=3, batch_size=4, epochs=2), SDXL)
    assert plan.buckets == {(768, 1344): 5, (1024, 1024): 9}
    # ceil(9 / 4) + ceil(5 / 4)
    assert plan.batches_per_epoch == 5
    assert plan.total_steps == 10


def test_accumulated_batches_make_one_step_and_the_last_may_have_fewer():
    images = [_image(number=n) for n in range(5)]
    params = _params(num_repeats=1, batch_size=1, gradient_accumulation=2, epochs=3)
    plan = plan_steps(images, params, SDXL)
    assert (plan.batches_per_epoch, plan.steps_per_epoch, plan.total_steps) == (5, 3, 9)


def test_max_steps_ends_a_run_early_and_never_prolongs_it():
    images = [_image(number=n) for n in range(4)]
    quick = {"num_repeats": 1, "batch_size": 1, "epochs": 2}
    assert plan_steps(images, _params(max_steps=5, **quick), SDXL).total_steps == 5
    assert plan_steps(images, _params(max_steps=50, **quick), SDXL).total_steps == 8


def test_held_out_pictures_are_a_choice_of_seed_and_picture_whatever_the_order():
    images = [_image(number=n) for n in range(40)]
    params = _params(validation_fraction=0.1)
    chosen = {images[n].sha256 for n in held_out(images, params)}
    assert len(chosen) == 4
    turned = images[::-1]
    assert {turned[n].sha256 for n in held_out(turned, params)} == chosen
    other = _params(validation_fraction=0.1, seed=2)
    assert {images[n].sha256 for n in held_out(images, other)} != chosen


def test_held_out_pictures_are_not_trained_on():
    images = [_image(number=n) for n in range(10)]
    plan = plan_steps(images, _params(validation_fraction=0.2, num_repeats=1), SDXL)
    assert len(plan.held_out) == 2
    assert sum(plan.buckets.values()) == 8


def test_few_pictures_are_all_trained_on():
    images = [_image(number=n) for n in range(7)]
    assert held_out(images, _params(validation_fraction=0.5)) == ()
    assert len(held_out([*images, _image(number=7)], _params(validation_fraction=0.01))) == 1
