"""Parameters that change nothing are named before the first step."""

import pytest

from app.trainings.arithmetic import BucketPlan, plan_steps
from app.trainings.planned import Picture
from worker.ml.training.spec import CaptionOptions, read_spec
from worker.ml.training.watching.advice import advice, describe, run_of


@pytest.fixture
def spec(write_spec):
    return lambda **params: read_spec(write_spec(params))


def _advice(spec):
    plan = BucketPlan.for_base(spec.params, 4)
    return advice(spec, plan_steps([image.size for image in spec.images], spec.params, plan))


def test_a_run_hears_of_its_length_and_of_what_has_no_effect(spec):
    found = _advice(spec(caption_dropout_rate=1.0))
    assert any("far too few steps: 12 steps" in sentence for sentence in found)
    assert any("captions have no effect" in sentence for sentence in found)


def test_a_run_in_which_all_counts_hears_nothing(spec):
    assert _advice(spec(epochs=60, num_repeats=2, save_every_n_epochs=10)) == []


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
