"""A dataset.toml means here what it means to sd-scripts, or is refused by name."""

import json

import pytest

from worker.ml.training.errors import SpecInvalid
from worker.ml.training.shell.dataset_keys import KEYS
from worker.ml.training.shell.dataset_toml import read_dataset_file

# Every key in the schemas of sd-scripts v0.10's ConfigSanitizer.
KNOWN_TO_SD_SCRIPTS = """
    alpha_mask batch_size bucket_no_upscale bucket_reso_steps cache_info
    caption_dropout_every_n_epochs caption_dropout_rate caption_extension caption_prefix
    caption_separator caption_suffix caption_tag_dropout_rate class_tokens color_aug
    conditioning_data_dir custom_attributes enable_bucket enable_wildcard face_crop_aug_range
    flip_aug image_dir is_reg keep_tokens keep_tokens_separator max_bucket_reso metadata_file
    min_bucket_reso network_multiplier num_repeats random_crop resize_interpolation resolution
    secondary_separator shuffle_caption token_warmup_min token_warmup_step validation_seed
    validation_split
"""

HONOURED = [name for name, key in KEYS.items() if key.instead is None]
# A value of each refused key that would change something.
REFUSED = {
    "color_aug": "true",
    "face_crop_aug_range": "[1.0, 3.0]",
    "resize_interpolation": '"area"',
    "cache_info": "true",
    "custom_attributes": '{ a = "b" }',
    "token_warmup_step": "0.5",
    "token_warmup_min": "3",
    "validation_seed": "7",
    "network_multiplier": "0.5",
}


@pytest.fixture
def read(tmp_path):
    """Read a file of that text; warnings are kept in `read.heard`."""

    def read_text(text, name="dataset.toml"):
        path = tmp_path / name
        path.write_text(text)
        return read_dataset_file(path, read_text.heard.append)

    read_text.heard = []
    return read_text


def _file(general="", dataset="", subset=""):
    return (
        f"[general]\n{general}\n[[datasets]]\n{dataset}\n"
        f'[[datasets.subsets]]\nimage_dir = "a"\n{subset}\n'
    )


def test_every_key_of_sd_scripts_is_known():
    assert sorted(KEYS) == KNOWN_TO_SD_SCRIPTS.split()
    assert sorted(REFUSED) == sorted(set(KEYS) - set(HONOURED))


def test_the_subset_goes_before_the_dataset_and_that_before_general(read):
    file = read("""
        [general]
        keep_tokens = 1
        shuffle_caption = true
        num_repeats = 5
        [[datasets]]
        keep_tokens = 2
          [[datasets.subsets]]
          image_dir = "a"
          [[datasets.subsets]]
          image_dir = "b"
          keep_tokens = 3
        [[datasets]]
          [[datasets.subsets]]
          image_dir = "c"
    """)
    assert [subset.keys["keep_tokens"] for subset in file.subsets] == [2, 3, 1]
    assert all(subset.keys["num_repeats"] == 5 for subset in file.subsets)


def test_what_a_run_has_once_becomes_its_parameters(read):
    file = read(
        _file(
            "resolution = [768, 768]\nbatch_size = 3\nvalidation_split = 0.2",
            "enable_bucket = true\nmin_bucket_reso = 320\nmax_bucket_reso = 1536\n"
            "bucket_reso_steps = 32\nbucket_no_upscale = true",
        )
    )
    assert file.params == {
        "resolution": 768,
        "batch_size": 3,
        "validation_fraction": 0.2,
        "min_bucket_px": 320,
        "max_bucket_px": 1536,
        "bucket_step_px": 32,
        "no_upscale": True,
    }


def test_bucket_sides_are_rounded_to_steps_as_sd_scripts_does(read):
    file = read(_file("min_bucket_reso = 300\nmax_bucket_reso = 1000\nbucket_reso_steps = 64", ""))
    assert (file.params["min_bucket_px"], file.params["max_bucket_px"]) == (256, 1024)
    assert len(read.heard) == 2


def test_json_is_read_too(read):
    data = {"datasets": [{"batch_size": 2, "subsets": [{"image_dir": "a"}]}]}
    assert read(json.dumps(data), "dataset.json").params == {"batch_size": 2}


@pytest.mark.parametrize(("name", "value"), REFUSED.items())
def test_a_key_that_is_not_offered_is_refused_with_what_works_instead(name, value, read):
    with pytest.raises(SpecInvalid) as refusal:
        read(_file(f"{name} = {value}"))
    assert f"[general]: {name} = " in str(refusal.value)
    assert str(KEYS[name].instead) in str(refusal.value)


def test_a_refused_key_that_changes_nothing_may_stay(read):
    read(
        _file(
            'color_aug = false\nresize_interpolation = "lanczos"\ncache_info = false\n'
            "custom_attributes = {}\ntoken_warmup_step = 0.0\ntoken_warmup_min = 1\n"
            "network_multiplier = 1"
        )
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (_file("colour = 1"), "[general]: colour is unknown"),
        (_file("num_repeat = 1"), "num_repeat is unknown; num_repeats is known"),
        (_file(subset="keep_token = 1"), "[[datasets]] 1, [[datasets.subsets]] 1: keep_token"),
        (_file("prior_loss_weight = 0.5"), "prior_preservation"),
        (_file("train_batch_size = 2"), "its name is batch_size"),
        (_file('image_dir = "x"'), "image_dir may not stand here; it belongs in [[datasets.subs"),
        (_file(subset="batch_size = 2"), "belongs in [general] or [[datasets]]"),
        (_file("keep_tokens = 1.0"), "keep_tokens is 1.0; it takes a whole number"),
        (_file("flip_aug = 1"), "flip_aug is 1; it takes true or false"),
        (_file("num_repeats = true"), "num_repeats is true; it takes a whole number"),
        (_file("num_repeats = -1"), "num_repeats is -1: Input should be greater than or equal"),
        (_file("num_repeats = 2026-01-01"), 'num_repeats is "2026-01-01"; it takes a whole'),
        (_file('caption_separator = ""'), "caption_separator is empty"),
        (_file("resolution = 100"), "resolution is 100: Input should be a multiple of 8"),
        (_file("resolution = [1216, 832]"), "say resolution = 1008"),
        (_file('resolution = "512,512"'), "resolution is"),
        (_file("min_bucket_reso = 640\nresolution = 512"), "min_bucket_reso is 640, above"),
        (_file("max_bucket_reso = 640\nresolution = 768"), "max_bucket_reso is 640, below"),
        (_file("enable_bucket = false\nbucket_no_upscale = true"), "enable_bucket = true"),
        (_file(subset='metadata_file = "m"\ncaption_extension = ".txt"'), "exclude each other"),
        (_file(subset='alpha_mask = true\nconditioning_data_dir = "m"'), "exclude each other"),
        ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 1", "image_dir is missing"),
        ("[[datasets]]\nbatch_size = 1", "has no [[datasets.subsets]]"),
        ("[general]", "has no [[datasets]]"),
        ("[datasets]\nbatch_size = 1", "with two brackets"),
        ("batch_size = 2", "batch_size belongs in [general] or [[datasets]]"),
        ("batch_size = ", "is not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_place(text, named, read):
    with pytest.raises(SpecInvalid) as refusal:
        read(text)
    assert named in str(refusal.value)


def _two(first, second):
    return (
        f'[[datasets]]\n{first}\n[[datasets.subsets]]\nimage_dir = "a"\n'
        f'[[datasets]]\n{second}\n[[datasets.subsets]]\nimage_dir = "b"\n'
    )


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("resolution = 512", "resolution = 768", "512 in dataset.toml, [[datasets]] 1 and 768 in"),
        ("batch_size = 2", "", "2 in dataset.toml, [[datasets]] 1 and left out in"),
        ("bucket_no_upscale = true", "bucket_no_upscale = false", "true in"),
    ],
)
def test_datasets_that_differ_in_what_a_run_has_once_are_refused(first, second, said, read):
    with pytest.raises(SpecInvalid) as refusal:
        read(_two(first, second))
    assert said in str(refusal.value)
    assert "dataset.toml, [[datasets]] 2; a run has one" in str(refusal.value)


def test_one_resolution_written_in_two_ways_is_one(read):
    assert read(_two("resolution = 512", "resolution = [512, 512]")).params["resolution"] == 512


def test_subsets_that_sd_scripts_leaves_out_are_left_out_and_told(read):
    text = _file(subset='num_repeats = 0\n[[datasets.subsets]]\nimage_dir = "b"\n') + (
        '[[datasets.subsets]]\nimage_dir = "b"'
    )
    file = read(text)
    assert [subset.keys["image_dir"] for subset in file.subsets] == ["b"]
    assert "num_repeats is 0" in read.heard[0]
    assert "has b already" in read.heard[1]
