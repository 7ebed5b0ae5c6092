"""Subsets become the images of a spec: what they share is the run's, what differs stays theirs."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from app.trainings.arithmetic import BucketPlan
from app.trainings.params import TrainingParams
from worker.ml.training.errors import SpecInvalid
from worker.ml.training.shell.dataset_config import (
    alike,
    image_specs,
    load,
    overruled,
    subsets_of_folder,
)
from worker.ml.training.shell.dataset_toml import Subset

EXAMPLES = Path(__file__).parents[5] / "examples"
PLAN = BucketPlan.for_base(TrainingParams(resolution=64), 4)


@pytest.fixture
def heard():
    return []


@pytest.fixture
def copied(tmp_path):
    """A folder of some of an example's files."""

    def copy(example, names, folder):
        target = tmp_path / folder
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(EXAMPLES / example / name, target)
        return target

    return copy


@pytest.fixture
def minty(copied):
    """Two captioned pictures of a cat."""
    names = [f"minty-0{number}.{ending}" for number in (1, 2) for ending in ("png", "txt")]
    return copied("minty-character", names, "minty")


@pytest.fixture
def ink(copied):
    """A picture with a caption, and one without."""
    return copied("ink-style", ["fox.png", "fox.txt", "bell.png"], "ink")


@pytest.fixture
def settled(heard):
    """The images of subsets given by their keys, and the parameters that all of them share."""

    def settle(*keys, caller=None, trigger=None, plan=PLAN):
        subsets = [Subset(f"subset {n}", each) for n, each in enumerate(keys, 1)]
        loaded = load(subsets, heard.append, heard.append)
        shared = alike(loaded, caller or {})
        params = TrainingParams.model_validate(shared)
        images = image_specs(
            loaded, caller or {}, params, plan, trigger, heard.append, heard.append
        )
        return images, shared

    return settle


def test_what_all_subsets_share_becomes_the_runs(minty, ink, settled):
    images, shared = settled(
        {"image_dir": str(minty), "num_repeats": 4, "keep_tokens": 1, "flip_aug": True},
        {"image_dir": str(ink), "num_repeats": 4, "keep_tokens": 1, "flip_aug": True},
    )
    assert (shared["num_repeats"], shared["keep_tokens"], shared["flip_augment"]) == (4, 1, True)
    for image in images:
        assert (image.repeats, image.captions, image.flip_augment) == (None, None, None)


def test_what_differs_stays_with_the_images(minty, ink, settled):
    images, shared = settled(
        {
            "image_dir": str(minty),
            "num_repeats": 4,
            "shuffle_caption": True,
            "caption_tag_dropout_rate": 0.1,
            "random_crop": True,
            "alpha_mask": True,
        },
        {"image_dir": str(ink), "flip_aug": True},
    )
    assert "num_repeats" not in shared
    cat, drawing = images[0], images[-1]
    assert (cat.repeats, drawing.repeats) == (4, 1)
    assert (cat.random_crop, cat.alpha_mask, cat.flip_augment) == (True, True, None)
    assert drawing.flip_augment is True
    assert cat.captions.shuffle_caption
    assert cat.captions.tag_dropout_rate == 0.1
    assert not drawing.captions.shuffle_caption


def test_a_silent_file_means_sd_scripts_defaults(ink, settled):
    _, shared = settled({"image_dir": str(ink)})
    assert shared["num_repeats"] == 1
    assert shared["shuffle_caption"] is False
    assert (shared["keep_tokens"], shared["caption_dropout_rate"]) == (0, 0.0)


def test_the_caller_counts_where_the_file_is_silent_and_only_there(minty, ink, settled):
    images, shared = settled(
        {"image_dir": str(minty), "num_repeats": 2},
        {"image_dir": str(ink)},
        caller={"num_repeats": 7, "keep_tokens": 3},
    )
    assert [image.repeats for image in images] == [2, 2, 7, 7]
    assert shared["keep_tokens"] == 3


def test_what_every_subset_overrules_is_told(minty, ink, heard):
    subsets = [
        Subset("one", {"image_dir": str(minty), "num_repeats": 2, "keep_tokens": 1}),
        Subset("two", {"image_dir": str(ink), "num_repeats": 3}),
    ]
    loaded = load(subsets, heard.append, heard.append)
    assert list(overruled(loaded, {"num_repeats": 9, "keep_tokens": 5})) == [
        ("num_repeats", "num_repeats", 2, "one")
    ]


def test_separators_of_captions_have_no_parameter_so_each_image_has_them(ink, settled):
    images, _ = settled(
        {"image_dir": str(ink), "caption_separator": ";", "secondary_separator": ";;;"}
    )
    assert images[0].captions.separator == ";"
    assert images[0].captions.secondary_separator == ";;;"


def test_class_tokens_caption_what_has_no_caption(ink, settled, heard):
    images, _ = settled({"image_dir": str(ink), "class_tokens": "ink drawing"})
    assert [image.caption for image in images] == [
        "ink drawing",
        (ink / "fox.txt").read_text().strip(),
    ]
    assert any("bell.png without a caption" in line for line in heard)


def test_without_class_tokens_the_trigger_word_does_and_without_both_it_is_told(
    ink, settled, heard
):
    assert settled({"image_dir": str(ink)}, trigger="inkstyle")[0][0].caption == "inkstyle"
    heard.clear()
    assert settled({"image_dir": str(ink)})[0][0].caption == ""
    assert any("bell.png without any caption" in line for line in heard)


def test_captions_that_lack_the_trigger_word_are_told(minty, settled, heard):
    settled({"image_dir": str(minty)}, trigger="zxq")
    assert any("minty-01.png, minty-02.png lack the trigger word zxq" in line for line in heard)
    heard.clear()
    settled({"image_dir": str(minty), "caption_prefix": "zxq,"}, trigger="zxq")
    assert not any("lack the trigger word" in line for line in heard)


def test_several_lines_are_one_caption_unless_wildcards_choose_among_them(ink, settled):
    (ink / "fox.txt").write_text("a fox\n\nsly fox \n")
    one, _ = settled({"image_dir": str(ink)})
    assert one[1].caption == "a fox"
    many, _ = settled({"image_dir": str(ink), "enable_wildcard": True})
    assert many[1].caption == "a fox\nsly fox"


def test_class_pictures_are_marked_and_alone_are_nothing_to_learn_from(minty, ink, settled):
    images, _ = settled({"image_dir": str(minty)}, {"image_dir": str(ink), "is_reg": True})
    assert [image.regularization for image in images] == [False, False, True, True]
    with pytest.raises(SpecInvalid, match="only class pictures"):
        settled({"image_dir": str(ink), "is_reg": True})


def test_a_folder_without_usable_pictures_is_told_and_all_such_are_an_error(
    tmp_path, minty, settled, heard
):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "x.png").touch()
    assert len(settled({"image_dir": str(bare)}, {"image_dir": str(minty)})[0]) == 2
    assert "subset 1 has no usable picture" in heard
    with pytest.raises(SpecInvalid, match="no usable picture"):
        settled({"image_dir": str(bare)})


def test_a_missing_folder_is_an_error(tmp_path, settled):
    with pytest.raises(SpecInvalid, match=r"subset 1: image_dir is .*nowhere, which is no folder"):
        settled({"image_dir": str(tmp_path / "nowhere")})
    with pytest.raises(SpecInvalid, match="which is no folder"):
        settled({"image_dir": "x" * 400})


# --- metadata files


def test_a_metadata_file_lists_pictures_with_caption_and_tags(ink, settled, heard):
    listed = {
        "bell.png": {"caption": "a bell", "tags": "ink, round", "train_resolution": [64, 64]},
        str(ink / "fox.png"): {"tags": "fox"},
        "gone.png": {"caption": "nobody"},
    }
    (ink / "meta.json").write_text(json.dumps(listed))
    images, _ = settled({"image_dir": str(ink), "metadata_file": str(ink / "meta.json")})
    assert [image.caption for image in images] == ["a bell,ink, round", "fox"]
    assert any("gone.png is skipped" in line for line in heard)


def test_tags_stand_behind_each_line_of_a_caption(ink, settled):
    (ink / "m.json").write_text(json.dumps({"bell.png": {"caption": "a\nb", "tags": "x\ny"}}))
    keys = {"image_dir": str(ink), "metadata_file": str(ink / "m.json")}
    assert settled(keys)[0][0].caption == "a,x,y"
    assert settled({**keys, "enable_wildcard": True})[0][0].caption == "a,x,y\nb,x,y"


def test_metadata_may_be_json_lines(ink, settled):
    (ink / "m.jsonl").write_text(
        "\n".join(
            json.dumps({"image_path": name, "caption": name, "image_size": [1, 1]})
            for name in ("bell.png", "fox.png")
        )
    )
    images, _ = settled({"image_dir": str(ink), "metadata_file": str(ink / "m.jsonl")})
    with Image.open(ink / "bell.png") as picture:
        assert (images[0].width, images[0].height) == picture.size
    assert [image.caption for image in images] == ["bell.png", "fox.png"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[1]", "is not of the form"),
        ("{", "is no list of images"),
        ('{"bell.png": {"caption": 3}}', "caption and tags take strings"),
    ],
)
def test_broken_metadata_is_named(text, named, ink, settled):
    (ink / "m.json").write_text(text)
    with pytest.raises(SpecInvalid, match=named):
        settled({"image_dir": str(ink), "metadata_file": str(ink / "m.json")})


def test_relative_paths_in_metadata_need_a_folder(ink, settled):
    (ink / "m.json").write_text('{"bell.png": {}}')
    with pytest.raises(SpecInvalid, match="so image_dir is needed"):
        settled({"metadata_file": str(ink / "m.json")})


# --- masks


@pytest.fixture
def masks(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for name in ("fox.png", "bell.jpg"):
        Image.new("L", (8, 8), 255).save(folder / name)
    return folder


def test_each_picture_has_the_mask_of_its_name(ink, masks, settled):
    images, _ = settled({"image_dir": str(ink), "conditioning_data_dir": str(masks)})
    assert [Path(image.mask_path).name for image in images] == ["bell.jpg", "fox.png"]
    assert all(image.mask_sha256 for image in images)


def test_a_missing_or_broken_mask_is_an_error_and_one_too_many_a_warning(
    ink, masks, settled, heard
):
    Image.new("L", (8, 8)).save(masks / "owl.png")
    keys = {"image_dir": str(ink), "conditioning_data_dir": str(masks)}
    settled(keys)
    assert any("owl.png in masks is skipped" in line for line in heard)
    (masks / "fox.png").write_bytes(b"no picture")
    with pytest.raises(SpecInvalid, match=r"the mask fox\.png cannot be used"):
        settled(keys)
    (masks / "fox.png").unlink()
    with pytest.raises(SpecInvalid, match=r"lacks the masks of fox\.png"):
        settled(keys)


# --- buckets


def test_no_buckets_is_honoured_only_where_it_changes_nothing(ink, settled, heard):
    settled({"image_dir": str(ink), "enable_bucket": False})
    Image.new("RGB", (120, 60)).save(ink / "wide.png")
    with pytest.raises(SpecInvalid, match=r"wide\.png \(120x60\).*say enable_bucket = true"):
        settled({"image_dir": str(ink), "enable_bucket": False})
    heard.clear()
    settled({"image_dir": str(ink)})
    assert any("pictures keep their shape" in line for line in heard)


# --- folders


def test_kohyas_folders_are_subsets_of_their_own(copied, tmp_path, settled, heard):
    copied("minty-character", ["minty-01.png"], "all/10_minty cat")
    copied("minty-character", ["minty-02.png"], "all/3_minty cat")
    copied("minty-character", ["minty-03.png"], "all/0_left out")
    copied("minty-character", ["minty-04.png"], "all/other")
    found = subsets_of_folder(tmp_path / "all", is_class=False, warn=heard.append)
    images, _ = settled(*(subset.keys for subset in found))
    assert [image.caption for image in images] == ["minty cat", "minty cat"]
    # Ten is the run's own default.
    assert [image.repeats for image in images] == [None, 3]
    assert any("0_left out is left out" in line for line in heard)
    assert any("other in all is skipped" in line for line in heard)


def test_one_of_kohyas_folders_may_be_named_itself(copied, heard):
    folder = copied("minty-character", ["minty-01.png"], "12_minty cat")
    (subset,) = subsets_of_folder(folder, is_class=True, warn=heard.append)
    assert subset.keys["num_repeats"] == 12
    assert subset.keys["class_tokens"] == "minty cat"
    assert subset.keys["is_reg"] is True


def test_a_plain_folder_says_nothing_of_repeats(ink, heard):
    (subset,) = subsets_of_folder(ink, is_class=False, warn=heard.append)
    assert not subset.keys.keys() & {"num_repeats", "class_tokens"}


def test_pictures_beside_kohyas_folders_and_absurd_repeats_are_refused(ink, tmp_path, heard):
    (ink / "5_cat").mkdir()
    with pytest.raises(SpecInvalid, match="beside folders with repeats"):
        subsets_of_folder(ink, is_class=False, warn=heard.append)
    (tmp_path / "2024_holiday").mkdir()
    with pytest.raises(SpecInvalid, match="asks for 2024 repeats; at most 1000"):
        subsets_of_folder(tmp_path / "2024_holiday", is_class=False, warn=heard.append)
