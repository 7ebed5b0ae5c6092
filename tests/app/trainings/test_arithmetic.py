"""Buckets and steps, counted by hand or as kohya's trainer counts them."""

import math

import pytest

from app.trainings.arithmetic import BucketPlan, ImageSize, held_out_folds, plan_steps
from app.trainings.params import TrainingParams

SDXL = BucketPlan.for_base(TrainingParams(), 8)
EMOJI = BucketPlan.for_base(TrainingParams(resolution=64), 4)


def _image(width=1024, height=1024, repeats=None, number=0, regularization=False):
    return ImageSize(width, height, repeats, f"{number:064x}", regularization)


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


@pytest.mark.parametrize(
    ("picture", "bucket"),
    [
        ((500, 700), (448, 640)),
        ((1024, 1024), (1024, 1024)),
        # Shrunk to 1024² along the side whose rounding keeps the ratio best.
        ((4000, 3000), (1088, 832)),
        ((40, 90), (64, 64)),
    ],
)
def test_without_upscaling_small_pictures_keep_their_size_in_whole_steps(picture, bucket):
    plan = BucketPlan.for_base(TrainingParams(no_upscale=True), 8)
    assert plan.nearest(*picture) == bucket


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bucket_step_px": 48}, "48"),
        ({"min_bucket_px": 1280}, "1280"),
        ({"max_bucket_px": 512}, "512"),
    ],
)
def test_buckets_that_cannot_be_are_refused_with_the_value(changes, named):
    with pytest.raises(ValueError, match=named):
        BucketPlan.for_base(TrainingParams(**changes), 8)


def test_batches_are_counted_for_each_bucket_and_ragged_ones_stay():
    images = [_image(number=n) for n in range(3)] + [_image(900, 1600, 5, 3)]
    plan = plan_steps(images, _params(num_repeats=3, batch_size=4, epochs=2), SDXL)
    passes = {size: len(numbers) for size, numbers in plan.buckets(0).items()}
    assert passes == {(768, 1344): 5, (1024, 1024): 9}
    # ceil(9 / 4) + ceil(5 / 4)
    assert plan.steps_per_epoch == 5
    assert plan.total_steps == 10


def test_accumulated_batches_make_one_step_and_the_last_may_have_fewer():
    images = [_image(number=n) for n in range(5)]
    params = _params(num_repeats=1, batch_size=1, gradient_accumulation=2, epochs=3)
    plan = plan_steps(images, params, SDXL)
    assert (plan.steps_per_epoch, plan.total_steps) == (3, 9)


def test_two_devices_count_as_one_with_the_doubled_batch():
    images = [_image(number=n) for n in range(9)]
    two = plan_steps(images, _params(batch_size=2), SDXL, processes=2)
    one = plan_steps(images, _params(batch_size=4), SDXL)
    assert two.total_steps == one.total_steps == 10 * math.ceil(90 / 4)


def test_max_steps_ends_a_run_early_and_never_prolongs_it():
    images = [_image(number=n) for n in range(4)]
    quick = {"num_repeats": 1, "batch_size": 1, "epochs": 2}
    assert plan_steps(images, _params(max_steps=5, **quick), SDXL).total_steps == 5
    assert plan_steps(images, _params(max_steps=50, **quick), SDXL).total_steps == 8


def test_held_out_pictures_are_a_choice_of_seed_and_picture_whatever_the_order():
    images = [_image(number=n) for n in range(40)]
    params = _params(validation_fraction=0.1)
    (fold,) = held_out_folds(images, params)
    chosen = {images[n].sha256 for n in fold}
    assert len(chosen) == 4
    turned = images[::-1]
    assert {turned[n].sha256 for n in held_out_folds(turned, params)[0]} == chosen
    (other,) = held_out_folds(images, _params(validation_fraction=0.1, seed=2))
    assert {images[n].sha256 for n in other} != chosen


def test_held_out_pictures_are_not_trained_on():
    images = [_image(number=n) for n in range(20)]
    plan = plan_steps(images, _params(validation_fraction=0.2, num_repeats=1), SDXL)
    shown = [number for numbers in plan.buckets(3).values() for number in numbers]
    assert len(plan.held_out(3)) == 4
    assert sorted([*shown, *plan.held_out(3)]) == list(range(20))


def test_of_few_pictures_every_epoch_holds_out_others_until_each_had_its_turn():
    images = [_image(number=n) for n in range(10)]
    params = _params(validation_fraction=0.2, num_repeats=1, batch_size=3, epochs=7)
    plan = plan_steps(images, params, SDXL)
    assert plan.rotates
    turns = [plan.held_out(epoch) for epoch in range(5)]
    assert sorted(number for fold in turns for number in fold) == list(range(10))
    assert plan.held_out(5) == turns[0]
    for epoch in range(5):
        shown = {number for numbers in plan.buckets(epoch).values() for number in numbers}
        assert shown == set(range(10)) - set(turns[epoch])


def test_steps_are_located_in_epochs_of_unlike_length():
    # The tall picture's bucket is missing from the epoch that holds it out.
    images = [_image(number=n) for n in range(3)] + [_image(600, 1600, number=3)]
    params = _params(validation_fraction=0.25, num_repeats=1, batch_size=3, epochs=6)
    plan = plan_steps(images, params, SDXL)
    assert sorted(plan.steps_by_fold) == [1, 2, 2, 2]
    counted = [plan.locate(step) for step in range(plan.total_steps)]
    expected = [
        (epoch, step) for epoch in range(6) for step in range(plan.steps_by_fold[epoch % 4])
    ]
    assert counted == expected


def test_very_few_pictures_are_all_trained_on():
    images = [_image(number=n) for n in range(3)]
    assert held_out_folds(images, _params(validation_fraction=0.5)) == ()


def test_class_pictures_are_shown_as_often_as_the_subject_and_never_held_out():
    images = [_image(number=n) for n in range(20)]
    images += [_image(number=20 + n, regularization=True) for n in range(7)]
    plan = plan_steps(images, _params(validation_fraction=0.1, num_repeats=3), SDXL)
    shown = [number for numbers in plan.buckets(0).values() for number in numbers]
    assert all(number < 20 for number in plan.held_out(0))
    assert sum(number < 20 for number in shown) == sum(number >= 20 for number in shown) == 54
    passes = [shown.count(number) for number in range(20, 27)]
    assert max(passes) - min(passes) == 1
