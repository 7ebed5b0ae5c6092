"""Advice: one sentence for each doubt about a run, and none for a run without doubt."""

import subprocess
import sys
from typing import get_args

import pytest

from app.catalog import load_catalog
from app.settings import REPOSITORY
from app.trainings.advice import advise
from app.trainings.arithmetic import BucketPlan, ImageSize, plan_steps
from app.trainings.params import Task, TrainingParams
from app.trainings.planned import Picture, Run
from app.trainings.presets import PRESETS, resolve

SDXL = BucketPlan.for_base(TrainingParams(), 8)


def pictures(
    count: int = 60, caption: str = "inkstyle, a red {}, in the style of inkstyle", **more
):
    return [Picture(caption.replace("{}", f"thing {n}"), **more) for n in range(count)]


def run(
    *,
    shown: list[Picture] | None = None,
    task="style",
    trigger_word="inkstyle",
    held_out=6,
    **params,
) -> Run:
    """A run without doubt, but for what is given."""
    shown = pictures() if shown is None else shown
    chosen = TrainingParams(**{"seed": 1, "epochs": 9, **params})
    sizes = [ImageSize(1024, 1024, p.repeats, f"{n:064x}") for n, p in enumerate(shown)]
    steps = plan_steps(sizes, chosen, SDXL).total_steps
    step = chosen.batch_size * chosen.gradient_accumulation
    return Run(chosen, shown, steps, step, held_out, trigger_word, task)


def test_a_run_in_which_all_counts_gets_no_advice():
    assert advise(run()) == []


@pytest.mark.parametrize("task", get_args(Task))
@pytest.mark.parametrize("base", ["sdxl-1.0", "emoji-64"])
def test_no_preset_draws_advice_within_its_range(task, base):
    entry = load_catalog(REPOSITORY / "assets" / "catalog.toml").base_model(base)
    assert entry is not None
    preset = PRESETS[task]
    for count in (preset.images_from, preset.images_to or 400):
        params = resolve(task, entry, TrainingParams(), 1, images=count)
        sizes = [ImageSize(1024, 1024, None, f"{n:064x}") for n in range(count)]
        plan = BucketPlan.for_base(params, entry.vae_scale_factor)
        steps = plan_steps(sizes, params, plan).total_steps
        held_out = len(plan_steps(sizes, params, plan).held_out(0))
        chosen = Run(params, pictures(count), steps, params.batch_size, held_out, "inkstyle", task)
        assert advise(chosen) == []


@pytest.mark.parametrize(
    ("count", "task", "words"),
    [
        (49, "style", "49 images; Artist style works best with 50 or more"),
        (201, "style", "201 images; Artist style is tuned for at most 200"),
        (1, "product", "1 image; Product works best with 20 or more"),
        (199, "photography", "199 images; Photography works best with 200 or more"),
    ],
)
def test_a_dataset_outside_its_tasks_range(count, task, words):
    assert words in advise(run(shown=pictures(count), task=task, epochs=5))


@pytest.mark.parametrize("count", [50, 200])
def test_a_dataset_at_the_ends_of_its_tasks_range_is_within_it(count):
    assert not any("Artist" in words for words in advise(run(shown=pictures(count))))


def test_class_pictures_are_none_of_the_datasets_count_and_none_of_its_captions():
    shown = [*pictures(60), *pictures(500, "a thing", regularization=True)]
    assert advise(run(shown=shown, prior_preservation={"weight": 1.0})) == []


def test_far_too_many_and_far_too_few_steps_come_with_what_would_be_sensible():
    # 54 of 60 pictures train, 2 at a time; the preset shows each of 60 100 · √(50 / 60) times.
    [many] = advise(run(epochs=40))
    assert "10800 steps show each picture about 400 times" in many
    assert "for 60 images about 91 times is sensible, which is 2465 steps" in many
    [few] = advise(run(epochs=2, save_every_n_epochs=1))
    assert few.startswith("far too few steps: 540 steps show each picture about 20 times")
    assert "which is 2465 steps" in few


def test_max_steps_and_the_pictures_own_repeats_count_as_passes():
    [few] = advise(run(max_steps=270))
    assert "270 steps show each picture about 10 times" in few
    shown = pictures(60, repeats=40)
    [many] = advise(run(shown=shown))
    assert "show each picture about 360 times" in many


def test_half_of_the_steps_with_class_pictures_are_theirs():
    shown = [*pictures(60), *pictures(60, "a thing", regularization=True)]
    [few] = advise(run(shown=shown, prior_preservation={"weight": 1.0}, max_steps=1080))
    # 1080 steps of 2 are 2160 passes, half of them over the 54 pictures of the subject.
    assert "1080 steps show each picture about 20 times" in few
    assert advise(run(max_steps=1080)) == [], "40 times, without class pictures"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 64, "gradient_accumulation": 2}, "steps in all; fewer than 100 hardly"),
        ({"save_every_n_epochs": 10}, "save_every_n_epochs is 10 of 9 epochs"),
        ({"optimizer": "prodigy"}, "learning_rate is 0.0001; prodigy finds the rate"),
        ({"optimizer": "lion"}, "learning_rate is 0.0001, and above 5e-05 is much for lion"),
        ({"optimizer": "adamw_schedulefree"}, "lr_scheduler is cosine; adamw_schedulefree"),
        ({"optimizer": "adamw_schedulefree", "ema_decay": 0.99}, "ema_decay is 0.99; adamw_sched"),
        ({"zero_terminal_snr": True, "prediction": "epsilon"}, "is meant for v_prediction"),
        ({"optimizer": "prodigy", "lora_plus_ratio": 4}, "lora_plus_ratio has no effect: prodigy"),
        (
            {"optimizer": "prodigy", "blocks": [{"match": "unet", "learning_rate": 1}]},
            "learning_rate of blocks[0] (unet) has no effect: prodigy has one rate",
        ),
        ({"conv_rank": 8}, "conv_rank has no effect: target is attention, not conv"),
        ({"conv_alpha": 8.0, "target": "full"}, "conv_alpha has no effect: target is full"),
        ({"lokr_factor": 8}, "lokr_factor has no effect: variant is lora, not lokr"),
        ({"text_encoder_learning_rate": 1e-5}, "no effect: train_text_encoder is off"),
        ({"variant": "dora", "max_norm": 1.0}, "max_norm is 1; of a DoRA it limits the direction"),
        ({"trigger_learning_rate": 5e-3}, "trigger_learning_rate has no effect"),
        ({"trigger_vectors": 2, "trigger_word": None}, "no effect: there is no trigger word"),
        ({"trigger_vectors": 2, "trigger_word": "ink"}, "no effect: no caption has the trigger"),
        ({"blocks": [{"match": "text_encoder.x", "rank": 4}]}, "train_text_encoder is off"),
        ({"blocks": [{"match": "unet.mid_block"}]}, "it sets no rank, alpha or learning_rate"),
        ({"blocks": [{"match": "unet.mid_block", "rank": 0, "alpha": 4}]}, "its rank is 0"),
        (
            {
                "blocks": [
                    {"match": "unet.mid_block", "rank": 4},
                    {"match": "unet", "rank": 8, "alpha": 8},
                ]
            },
            "blocks[0] (unet.mid_block) has no effect: unet, further down, matches all",
        ),
        ({"lr_cycles": 3}, "lr_cycles has no effect: lr_scheduler is cosine, not cosine_with"),
        ({"lr_power": 2.0}, "lr_power has no effect: lr_scheduler is cosine, not polynomial"),
        ({"max_steps": 9000}, "it is 9000, and the epochs end after 2430"),
        ({"held_out": 0}, "validation_fraction has no effect: 60 pictures are fewer than"),
        (
            {"held_out": 0, "early_stop_checkpoints": 1},
            "early_stop_checkpoints has no effect: no picture is held out",
        ),
        ({"early_stop_checkpoints": 5}, "it waits for 5, and the run has 5 checkpoints in all"),
        ({"crop_variants": 8}, "crop_variants has no effect: random_crop is off"),
        ({"prior_preservation": {}}, "prior_preservation has no effect: no picture is marked"),
        ({"caption_dropout_rate": 1.0}, "captions have no effect: caption_dropout_rate is 1"),
        ({"caption_dropout_every_n_epochs": 1}, "captions have no effect: caption_dropout_every"),
        ({"caption_dropout_every_n_epochs": 20}, "no effect: it is 20, and there are 9 epochs"),
        ({"keep_tokens": 2, "shuffle_caption": False}, "keep_tokens has no effect: shuffle_cap"),
        ({"keep_tokens_separator": "|||"}, "no effect: no caption has '|||'"),
        ({"keep_tokens": 3}, "shuffle_caption has no effect: no caption has two parts or more"),
        ({"keep_tokens": 3, "tag_dropout_rate": 0.1}, "tag_dropout_rate has no effect: no cap"),
        ({"caption_variants": 8, "shuffle_caption": False}, "caption_variants has no effect"),
        ({"caption_variants": 8, "train_text_encoder": True}, "caption_variants has no effect"),
        ({"wildcards": True}, "wildcards has no effect: no caption has several lines"),
        ({"huber_delta": 0.5}, "huber_delta has no effect: loss is l2"),
        ({"min_snr_gamma": 3, "debiased_estimation": True}, "debiased_estimation takes its"),
        ({"multires_noise_discount": 0.5}, "multires_noise_iterations is 0"),
    ],
)
def test_what_is_in_vain_is_named(changes, words):
    assert any(words in advice for advice in advise(run(**changes))), advise(run(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"conv_rank": 8, "conv_alpha": 4.0, "target": "conv"},
        {"lokr_factor": 8, "variant": "lokr"},
        {"text_encoder_learning_rate": 1e-5, "train_text_encoder": True},
        {"max_norm": 1.0},
        {"lora_plus_ratio": 4, "variant": "loha"},
        {"trigger_learning_rate": 5e-3, "trigger_vectors": 2},
        {"blocks": [{"match": "text_encoder", "rank": 4}], "train_text_encoder": True},
        {"blocks": [{"match": "unet", "rank": 4}, {"match": "unet.mid_block", "rank": 8}]},
        {"blocks": [{"match": "unet.mid_block", "alpha": 4}, {"match": "unet", "rank": 8}]},
        {"blocks": [{"match": "unet.down_blocks.1", "rank": 0}, {"match": "unet.up", "rank": 1}]},
        {"lr_cycles": 3, "lr_scheduler": "cosine_with_restarts"},
        {"lr_power": 2.0, "lr_scheduler": "polynomial"},
        {"max_steps": 2000, "early_stop_checkpoints": 4},
        {"validation_fraction": 0.0, "held_out": 0},
        {"crop_variants": 8, "random_crop": True},
        {"keep_tokens": 2, "shuffle_caption": False, "tag_dropout_rate": 0.1},
        {"keep_tokens": 2, "caption_suffix": ", on paper"},
        {"keep_tokens_separator": "|||", "caption_prefix": "inkstyle |||"},
        {"keep_tokens_separator": "|||", "caption_prefix": "x |||", "shuffle_caption": False},
        {"optimizer": "prodigy", "learning_rate": 1.0},
        {"optimizer": "lion", "learning_rate": 3e-5},
        {"optimizer": "adamw_schedulefree", "lr_scheduler": "constant"},
        {"huber_delta": 0.5, "loss": "huber"},
        {"min_snr_gamma": 3},
        {"debiased_estimation": True},
        {"multires_noise_discount": 0.5, "multires_noise_iterations": 6},
        {"zero_terminal_snr": True, "prediction": "v_prediction"},
    ],
)
def test_what_has_its_effect_is_not_named(changes):
    assert advise(run(**changes)) == []


def test_captions_that_are_missing_are_counted():
    shown = [*pictures(55), *pictures(5, "inkstyle", captioned=False)]
    assert advise(run(shown=shown)) == [
        "5 of 60 images have no caption and train on the trigger word alone"
    ]


def test_a_trigger_word_must_be_where_it_calls_and_nowhere_else():
    shown = [*pictures(50), *pictures(10, "a red {}, inkstyles, drawn")]
    assert advise(run(shown=shown)) == [
        "10 of 60 captions lack the trigger word 'inkstyle', so it will not call what they teach"
    ]
    assert advise(run(shown=shown, caption_prefix="inkstyle, ")) == []
    shown = [*pictures(60), *pictures(4, "inkstyle, a cup", regularization=True)]
    assert advise(run(shown=shown, prior_preservation={})) == [
        "4 of 4 class captions have the trigger word 'inkstyle', which teaches the class to answer "
        "to it"
    ]


def test_pictures_with_options_of_their_own_are_not_judged_by_the_runs():
    shown = pictures(60, "one part only", own_captions=True)
    assert advise(run(shown=shown, caption_variants=8)) == []
    [found] = advise(run(shown=shown, tag_dropout_rate=0.1))
    assert found.endswith("no effect: every picture has caption options of its own")
    assert advise(run(shown=pictures(60, random_crop=True), crop_variants=8)) == []


def test_what_shows_through_matters_only_to_pictures_that_can_be_transparent():
    changes = {"alpha_mask": True, "background": "#000000"}
    assert advise(run(**changes)) == []
    found = advise(run(shown=pictures(60, opaque=True), **changes))
    assert found == [
        f"{name} has no effect: no picture can be transparent"
        for name in ("alpha_mask", "background")
    ]


def test_wildcards_are_choices_in_braces_or_several_lines():
    for caption in ("inkstyle, a {red|blue} thing", "inkstyle, a cup\ninkstyle, a mug"):
        assert advise(run(shown=pictures(60, caption), wildcards=True, shuffle_caption=False)) == []


def test_pictures_of_the_subject_among_the_class_pictures_are_counted():
    shown = [
        *pictures(60, sha256="a"),
        *pictures(2, "a thing", sha256="a", regularization=True),
        *pictures(3, "a thing", sha256="b", regularization=True),
    ]
    [found] = advise(run(shown=shown, prior_preservation={}))
    assert found.startswith("2 of 5 class pictures are pictures of the subject too")


def test_without_a_task_the_number_of_pictures_is_nobodys_mistake():
    assert (
        advise(run(shown=pictures(5), task=None, epochs=15, held_out=0, validation_fraction=0))
        == []
    )


def test_advice_needs_neither_torch_nor_a_database():
    code = """
import sys
import app.trainings.advice
heavy = {"torch", "sqlalchemy", "fastapi", "boto3"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
