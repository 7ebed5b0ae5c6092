"""Parameters that change nothing are named before the first step."""

import pytest

from app.trainings.arithmetic import BucketPlan, plan_steps
from app.trainings.planned import Picture
from worker.ml.training.advice import describe, run_of, without_effect
from worker.ml.training.spec import CaptionOptions, read_spec


@pytest.fixture
def spec(write_spec):
    return lambda **params: read_spec(write_spec(params))


def test_a_run_in_which_all_counts_gets_no_advice(spec):
    assert without_effect(spec()) == []


def test_too_few_pictures_to_hold_any_out(spec):
    few = spec(validation_fraction=0.1)
    few = few.model_copy(update={"images": few.images[:3]})
    (advice,) = without_effect(few)
    assert "validation_fraction has no effect: 3 pictures are fewer than 4" in advice


def test_nothing_to_shuffle(spec):
    assert "shuffle_caption has no effect" in without_effect(spec(keep_tokens=3))[0]
    assert without_effect(spec(shuffle_caption=False)) == []


def test_captions_that_are_never_shown(spec):
    assert "captions have no effect" in without_effect(spec(caption_dropout_rate=1.0))[0]


def test_each_picture_is_judged_by_what_the_spec_says_of_it(spec):
    few = spec()
    first, second, *others = few.images
    own = first.model_copy(update={"random_crop": True, "captions": CaptionOptions(), "repeats": 3})
    of_class = second.model_copy(update={"regularization": True, "path": "/x/dog.JPG"})
    changed = few.model_copy(update={"images": [own, of_class, *others]})
    sizes = [image.size for image in changed.images]
    steps = plan_steps(sizes, changed.params, BucketPlan.for_base(changed.params, 4))
    run = run_of(changed, steps)
    assert (run.total_steps, run.trigger_word) == (steps.total_steps, "inkstyle")
    assert (run.pictures_per_step, run.held_out) == (4, 1)
    assert run.pictures[0] == Picture(
        first.caption, repeats=3, sha256=first.sha256, own_captions=True, random_crop=True
    )
    assert run.class_pictures == [
        Picture(second.caption, regularization=True, sha256=second.sha256, opaque=True)
    ]
    assert len(run.subject) == 9


def test_a_run_is_described_in_a_sentence(spec):
    chosen = spec()
    sizes = [image.size for image in chosen.images]
    steps = plan_steps(sizes, chosen.params, BucketPlan.for_base(chosen.params, 4))
    assert describe(steps, chosen.params, 1) == (
        "12 steps, 3 an epoch, of 4 pictures on 1 device; an epoch shows 64x64: 9; "
        "1 pictures are held out, "
        "others in each epoch"
    )
