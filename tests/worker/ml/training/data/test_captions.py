"""A caption becomes what sd-scripts would make of it, and every choice is repeatable."""

import pytest

from app.trainings.params import TrainingParams
from worker.ml.training.data.captions import caption_options, variants, varies, word
from worker.ml.training.spec import CaptionOptions, ImageSpec

CAPTION = "trigger, a, b, c, d, e"


def _options(**changes):
    return CaptionOptions(**{"shuffle_caption": True, "keep_tokens": 1, **changes})


def test_shuffling_keeps_every_token_and_the_first_ones_in_place():
    found = variants(CAPTION, _options(keep_tokens=2), 8, seed=3)
    assert found[0] == CAPTION
    assert len(set(found)) > 4
    for text in found:
        assert text.startswith("trigger, a, ")
        assert sorted(text.split(", ")) == sorted(CAPTION.split(", "))
    assert variants(CAPTION, _options(keep_tokens=2), 8, seed=3) == found
    assert variants(CAPTION, _options(keep_tokens=2), 8, seed=4) != found


@pytest.mark.parametrize("caption", ["a red cat", "", "trigger, a", "a, b, b"])
def test_a_caption_with_nothing_to_move_has_one_wording(caption):
    options = _options(keep_tokens=1)
    assert not varies(caption, options)
    assert len(variants(caption, options, 4, 0)) == 1


def test_prefix_and_suffix_stand_around_it():
    options = _options(shuffle_caption=False, caption_prefix="a photo of", caption_suffix="outside")
    assert word("a cat, b", options, 0, 0) == "a photo of a cat, b outside"


def test_a_separator_keeps_what_stands_before_it_and_after_a_second_one():
    options = _options(keep_tokens=0, keep_tokens_separator="|||")
    for text in variants("x, y ||| a, b, c, d ||| z", options, 6, 1):
        parts = text.split(", ")
        assert parts[:2] == ["x", "y"]
        assert parts[-1] == "z"
        assert sorted(parts[2:-1]) == list("abcd")


def test_dropped_tags_leave_the_kept_ones_and_the_first_wording_whole():
    options = _options(shuffle_caption=False, tag_dropout_rate=0.5)
    found = variants(CAPTION, options, 40, 1)
    assert found[0] == CAPTION
    assert all(text.startswith("trigger") for text in found)
    kept = sum(len(text.split(", ")) - 1 for text in found[1:]) / (5 * 39)
    assert kept == pytest.approx(0.5, abs=0.1)


def test_a_secondary_separator_moves_its_parts_together():
    options = _options(keep_tokens=0, secondary_separator=";;;")
    for text in variants("a;;;b, c, d, e", options, 6, 1):
        assert "a,b" in text


def test_wildcards_choose_a_line_and_one_of_the_parts():
    options = _options(shuffle_caption=False, wildcards=True)
    found = set(variants("a {red|blue} cat\na {{plain}} dog", options, 30, 1))
    assert found == {"a red cat", "a blue cat", "a {plain} dog"}


def test_without_wildcards_only_the_first_line_counts_and_braces_stay():
    options = _options(shuffle_caption=False)
    assert word("a {red|blue} cat\na dog", options, 0, 0) == "a {red|blue} cat"


def test_an_images_own_options_come_before_the_runs():
    image = ImageSpec(path="a", sha256="0" * 64, width=1, height=1, caption="")
    params = TrainingParams(keep_tokens=3, caption_suffix="x")
    found = caption_options(image, params)
    assert (found.keep_tokens, found.caption_suffix, found.shuffle_caption) == (3, "x", True)
    own = image.model_copy(update={"captions": CaptionOptions(keep_tokens=7)})
    assert caption_options(own, params).keep_tokens == 7
