"""What a command line asks for becomes a spec, and is trained; a mistake ends with 64."""

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from worker.ml.training.errors import SpecInvalid
from worker.ml.training.events import Events
from worker.ml.training.shell import command_line
from worker.ml.training.shell.dataset_keys import KEYS
from worker.ml.training.spec import read_spec

REPOSITORY = Path(__file__).parents[5]
EMOJI = str(REPOSITORY / "assets" / "emoji-64")
PAGE = (REPOSITORY / "docs" / "training-standalone.md").read_text()


@pytest.fixture(scope="module")
def riso(tmp_path_factory):
    """Some captioned pictures, with the junk of an archive among them."""
    folder = tmp_path_factory.mktemp("pictures") / "riso"
    shutil.copytree(REPOSITORY / "examples" / "riso-style", folder)
    (folder / "cut.png").write_bytes((folder / "bear.png").read_bytes()[:-300])
    return folder


@pytest.fixture
def config(riso, tmp_path):
    """A dataset.toml that names them."""
    path = tmp_path / "dataset.toml"
    path.write_text(
        f"""
        [general]
        shuffle_caption = true
        keep_tokens = 1
        [[datasets]]
        batch_size = 4
        enable_bucket = true
          [[datasets.subsets]]
          image_dir = "{riso}"
          num_repeats = 2
        """
    )
    return path


@pytest.fixture
def make(tmp_path):
    """The spec of a command line; what a person was told is in `make.heard`."""

    def spec_of(*options, output=tmp_path / "out"):
        parser = argparse.ArgumentParser()
        command_line.add_arguments(parser)
        parser.add_argument("--output", type=Path, required=True)
        parser.add_argument("--resume", action="store_true")
        args = parser.parse_args([*map(str, options), f"--output={output}"])
        stream = io.StringIO()
        path = command_line.spec_file(args, Events(stream))
        spec_of.heard = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
        spec_of.path = path
        return read_spec(path)

    return spec_of


def test_a_file_and_a_base_make_a_whole_spec(config, make):
    spec = make(
        "--config", config, "--base-model", EMOJI, "--trigger-word=risostyle", "--name=riso"
    )
    assert (spec.name, spec.trigger_word, len(spec.images)) == ("riso", "risostyle", 40)
    assert spec.base_model.id == "emoji-64"
    assert spec.base_model.location == EMOJI
    params = spec.params
    assert (params.batch_size, params.num_repeats, params.keep_tokens) == (4, 2, 1)
    # Of the base, which the file says nothing about.
    assert (params.resolution, params.learning_rate, params.epochs) == (64, 1e-3, 20)
    # sd-scripts' own default, where the file is silent.
    assert params.caption_dropout_rate == 0
    assert spec.sample_guidance_scale == 4.0
    assert any("cut.png is skipped" in line for line in make.heard)


def test_settings_go_before_presets_and_the_file_before_settings(config, make):
    spec = make(
        *("--config", config, "--base-model=emoji-64", "--preset=character"),
        *("--set", "rank=8", "--set", "caption_dropout_rate=0.25", "--set", "batch_size=2"),
        *("--set", "num_repeats=5", "--set", 'blocks=[{"match": "unet.mid_block", "rank": 2}]'),
        *("--set", "keep_tokens_separator=|||"),
    )
    params = spec.params
    assert (params.rank, params.caption_dropout_rate) == (8, 0.25)
    assert params.blocks[0].rank == 2
    assert params.keep_tokens_separator == "|||"
    assert (params.batch_size, params.num_repeats) == (4, 2)
    vain = [line for line in make.heard if "has no effect" in line]
    assert any("--set batch_size=2" in line and "batch_size = 4" in line for line in vain)
    assert any("--set num_repeats=5" in line and "num_repeats = 2" in line for line in vain)
    assert len(vain) == 2


def test_a_preset_beside_a_file_fills_in_what_the_file_leaves_out(config, make):
    spec = make("--config", config, "--base-model=emoji-64", "--preset=character")
    assert spec.params.caption_dropout_rate == 0.02
    assert spec.params.num_repeats == 2
    assert not any("is made for" in line for line in make.heard)
    make("--config", config, "--base-model=emoji-64", "--preset=photography")
    assert "40 pictures; photography is made for 200 or more" in make.heard


def test_half_a_character_from_a_json_file_is_refused(config, riso, make):
    path = config.with_suffix(".json")
    subset = {"image_dir": str(riso)}

    def refusal():
        path.write_text(json.dumps({"datasets": [{"subsets": [subset]}]}))
        with pytest.raises(SpecInvalid) as error:
            make("--config", path, "--base-model=emoji-64")
        return str(error.value)

    subset["caption_separator"] = "\ud800"
    assert "half a character" in refusal()
    subset["caption_separator"] = ","
    (riso / "meta.json").write_text(json.dumps({"bear.png": {"caption": "\ud800"}}))
    subset["metadata_file"] = str(riso / "meta.json")
    assert "not UTF-8" in refusal()
    (riso / "meta.json").unlink()


def test_a_folder_leaves_captions_and_repeats_to_the_run(riso, make):
    spec = make("--images", riso, "--base-model", EMOJI, "--sample-prompt=a bear")
    assert (spec.params.shuffle_caption, spec.params.num_repeats) == (True, 4)
    assert all(image.captions is None and image.repeats is None for image in spec.images)
    assert spec.images[0].caption == (riso / "airplane.txt").read_text().strip()
    assert spec.sample_prompts == ["a bear"]
    assert spec.name == "out"


def test_class_pictures_may_have_a_folder_of_their_own(riso, make):
    others = REPOSITORY / "examples" / "minty-character"
    spec = make(
        *("--images", riso, "--regularization-images", others, "--base-model", EMOJI),
        *("--set", 'prior_preservation={"weight": 0.5}'),
    )
    assert sum(image.regularization for image in spec.images) == 30
    assert spec.params.prior_preservation.weight == 0.5


def test_the_same_command_makes_the_same_spec_wherever_the_pictures_lie(riso, make, tmp_path):
    first = make("--images", riso, "--base-model", EMOJI, "--name=a")
    moved = shutil.copytree(riso, tmp_path / "moved")
    again = make("--images", moved, "--base-model", EMOJI, "--name=a", output=tmp_path / "again")
    assert first.seed == again.seed
    assert first.images[0].path != again.images[0].path
    other = make("--images", riso, "--base-model", EMOJI, "--name=b", output=tmp_path / "other")
    assert other.seed != first.seed
    chosen = make("--images", riso, "--base-model", EMOJI, "--seed=5", output=tmp_path / "five")
    assert chosen.seed == 5


def test_resuming_keeps_to_the_spec_it_began_with(riso, make):
    command = ("--images", riso, "--base-model", EMOJI)
    make(*command)
    before = make.path.read_bytes()
    make(*command, "--resume")
    assert make.path.read_bytes() == before
    with pytest.raises(SpecInvalid, match=r"params\.rank is 8, and was 32 when .*spec\.json"):
        make(*command, "--resume", "--set", "rank=8")
    with pytest.raises(SpecInvalid, match=r"the seed is 5.*say --seed"):
        make(*command, "--resume", "--seed=5")
    assert make.path.read_bytes() == before


def test_a_spec_of_ones_own_is_taken_as_it_is(riso, make, tmp_path):
    make("--images", riso, "--base-model", EMOJI)
    own = tmp_path / "own.json"
    shutil.copy(make.path, own)
    make(own, output=tmp_path / "elsewhere")
    assert make.path == own
    assert not (tmp_path / "elsewhere" / "spec.json").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "name what to train"),
        (("spec.json", "--images", "."), "one of SPEC.json"),
        (("spec.json", "--set", "rank=4"), "--set has no effect on a spec"),
        (("spec.json", "--trigger-word", "x"), "--trigger-word has no effect"),
        (("--images", "PICTURES"), "--base-model is missing"),
        (("--images", "PICTURES", "--base-model", "nothing"), "--base-model nothing is no folder"),
        (("--images", "nowhere", "--base-model", EMOJI), "nowhere cannot be read"),
        (("--config", "nowhere.toml", "--base-model", EMOJI), "nowhere.toml cannot be read"),
        (
            ("--images", "PICTURES", "--base-model", EMOJI, "--preset", "cat"),
            "--preset cat is none",
        ),
        (("--images", "PICTURES", "--base-model", EMOJI, "--seed", "-1"), "--seed -1"),
        (("--images", "PICTURES", "--base-model", EMOJI, "--catalog", "no.toml"), "--catalog no"),
        (("--images", "PICTURES", "--base-model", EMOJI, "--warm-start", "no"), "--warm-start no"),
        (("--config", "x", "--regularization-images", "y"), "a file says is_reg = true"),
        (("--images", "x" * 400, "--base-model", EMOJI), "cannot be read: File name too long"),
        (("--images", "PICTURES", "--base-model", "x" * 400), "is no folder here"),
        (
            ("--images", "PICTURES", "--base-model", EMOJI, *("--sample-prompt", "x") * 9),
            "sample_prompts",
        ),
        (
            ("--images", "PICTURES", "--base-model", EMOJI, "--set", "bucket_step_px=24"),
            "bucket_step_px is 24",
        ),
        (
            (
                *("--images", "PICTURES", "--base-model", EMOJI),
                *("--set", "max_steps=5", "--set", "lr_warmup_steps=9"),
            ),
            "lr_warmup_steps is 9; it must be below max_steps",
        ),
    ],
)
def test_a_mistake_is_refused_with_its_reason(options, named, riso, make):
    with pytest.raises(SpecInvalid) as refusal:
        make(*(riso if option == "PICTURES" else option for option in options))
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("rank", "write NAME=VALUE"),
        ("rank=0", "rank: Input should be greater than or equal to 1"),
        ("learning_rate=NaN", "learning_rate: Input should be less than or equal to 1"),
        ("optimizer=adam", "optimizer: Input should be 'adamw'"),
        ("ranks=3", "ranks is no parameter; rank is"),
        ("seed=3", "say --seed 3 instead"),
        ('blocks=[{"match": "vae"}]', "blocks.0.match"),
    ],
)
def test_a_wrong_setting_names_the_parameter(setting, named):
    with pytest.raises(SpecInvalid) as refusal:
        command_line.parse_settings([setting])
    assert f"--set {setting}" in str(refusal.value)
    assert named in str(refusal.value)
    with pytest.raises(SpecInvalid, match="rank is given twice"):
        command_line.parse_settings(["rank=4", "rank=8"])


def _run(*options):
    done = subprocess.run(
        [sys.executable, "-m", "worker.ml.training", *map(str, options)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_a_file_trains_a_lora_and_the_same_command_goes_on_to_the_same_bytes(
    config, tmp_path, cache
):
    run = tmp_path / "run"
    command = (
        *("--config", config, "--base-model", EMOJI, "--output", run, "--cache", cache),
        *("--set", "max_steps=4", "--set", "resolution=64", "--set", "rank=4"),
        "--state-every-seconds=0",
    )
    code, events = _run(*command)
    assert code == 0, events[-1]
    assert events[-1]["type"] == "result"
    (checkpoint,) = [event for event in events if event["type"] == "checkpoint"]
    with safe_open(checkpoint["path"], "pt") as file:
        assert file.metadata()["ss_network_dim"] == "4"
    # As if it had been killed before its last step.
    shutil.rmtree(run / "states" / "state-00000004")
    Path(checkpoint["path"]).unlink()
    code, events = _run(*command, "--resume")
    assert code == 0, events[-1]
    (made,) = [event for event in events if event["type"] == "checkpoint"]
    assert made["sha256"] == checkpoint["sha256"]
    steps = [row["step"] for event in events if event["type"] == "metrics" for row in event["rows"]]
    assert min(steps) > 0


def test_what_is_rejected_ends_with_64_and_an_event(config, tmp_path):
    config.write_text(config.read_text().replace("[general]", "[general]\ncolor_aug = true"))
    code, events = _run("--config", config, "--base-model", EMOJI, "--output", tmp_path / "run")
    assert code == 64
    assert [(event["type"], event["code"]) for event in events] == [("error", "spec_invalid")]
    assert "color_aug = true is refused" in events[0]["message"]
    assert not (tmp_path / "run").exists()


def test_a_hub_that_cannot_be_reached_is_no_mistake_of_the_command(riso, tmp_path):
    code, events = _run(
        *("--images", riso, "--base-model", "nobody/no-such-base", "--output", tmp_path / "run")
    )
    assert code == 70
    assert events[-1]["code"] == "base_model_unsuitable"
    assert "nobody/no-such-base cannot be had" in events[-1]["message"]


def test_the_page_names_every_option_and_every_key():
    parser = argparse.ArgumentParser(add_help=False)
    command_line.add_arguments(parser)
    options = re.findall(r"--[a-z-]+", parser.format_help())
    assert options
    missing = [name for name in [*options, *KEYS] if f"`{name}" not in PAGE]
    assert missing == []
