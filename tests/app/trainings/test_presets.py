"""Passes that fall with the number of pictures, and a page that says what the code says."""

import json
import math
import re
from typing import get_args

import pytest

from app.catalog import load_catalog
from app.settings import REPOSITORY
from app.trainings import advice, presets
from app.trainings.arithmetic import BucketPlan, ImageSize, StepPlan, plan_steps
from app.trainings.params import Task, TrainingParams
from app.trainings.presets import PRESETS, resolve

CATALOG = load_catalog(REPOSITORY / "assets" / "catalog.toml")
PAGE = (REPOSITORY / "docs" / "presets.md").read_text()
TASKS = get_args(Task)


def on(base: str, task: Task, images: int, **asked) -> TrainingParams:
    entry = CATALOG.base_model(base)
    assert entry is not None
    return resolve(task, entry, TrainingParams(**asked), 1, images=images)


def steps_of(params: TrainingParams, images: int) -> StepPlan:
    sizes = [ImageSize(1024, 1024, None, f"{number:064x}") for number in range(images)]
    return plan_steps(sizes, params, BucketPlan.for_base(params, 8))


def test_the_defaults_are_the_style_preset_on_sdxl():
    defaults = TrainingParams(seed=1, resolution=1024)
    assert on("sdxl-1.0", "style", PRESETS["style"].images_from) == defaults


@pytest.mark.parametrize("task", TASKS)
def test_four_times_the_pictures_make_a_run_of_twice_the_length(task):
    preset = PRESETS[task]
    fewest = preset.images_from
    assert preset.passes_for(fewest) == preset.passes
    assert preset.passes_for(4 * fewest) == preset.passes / 2
    lengths = [images * preset.passes_for(images) for images in range(1, 2000)]
    assert lengths == sorted(lengths), "no picture more makes a run shorter"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("images", [1, 3, 19, 20, 50, 77, 200, 999, 3200, 100_000])
def test_repeats_and_epochs_multiply_to_the_passes_within_half_an_epoch(task, images):
    wanted = PRESETS[task].passes_for(images)
    schedule = PRESETS[task].schedule_for(images)
    assert 10 <= wanted <= 200
    assert 7 <= schedule["epochs"] <= 14, "so there are some checkpoints, and not too many"
    given = schedule["num_repeats"] * schedule["epochs"]
    assert math.fabs(given - wanted) <= schedule["num_repeats"] / 2


def test_what_was_asked_goes_over_the_rule():
    params = on("sdxl-1.0", "style", 200, epochs=3)
    assert (params.num_repeats, params.epochs) == (5, 3)


@pytest.mark.parametrize("task", TASKS)
def test_the_small_base_has_its_own_length_whatever_the_preset(task):
    for images in (2, 40, 400):
        params = on("emoji-64", task, images)
        assert (params.num_repeats, params.epochs, params.batch_size) == (4, 20, 16)


def test_a_style_of_forty_pictures_takes_180_steps_on_the_small_base():
    params = on("emoji-64", "style", 40)
    sizes = [ImageSize(64, 64, None, f"{number:064x}") for number in range(40)]
    plan = BucketPlan.for_base(params, 4)
    # 36 train, 4 times an epoch, 16 at once: 9 steps of each of 20 epochs.
    assert plan_steps(sizes, params, plan).total_steps == 180


def test_the_shape_of_a_lora_to_go_on_from_goes_over_the_preset_and_under_what_is_asked():
    entry = CATALOG.base_models[0]
    inherited = {"rank": 8, "alpha": 4.0, "target": "conv"}
    asked = TrainingParams(target="attention")
    params = resolve("product", entry, asked, 1, images=20, inherited=inherited)
    assert (params.rank, params.alpha, params.target) == (8, 4.0, "attention")


def rows(first: str) -> dict[str, list[str]]:
    """The cells of each row of the table whose header begins so, by the row's first cell."""
    table = PAGE.split(f"| {first} |")[1].split("\n\n")[0]
    found = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {f"{cells[0]} {cells[1]}" if first == "preset" else cells[0]: cells for cells in found}


def test_the_page_has_every_value_that_a_preset_sets():
    table = rows("parameter")
    told = {name.strip("`") for name in table if name.startswith("`")} - {"passes"}
    assert {name for preset in PRESETS.values() for name in preset.params} <= told
    for place, task in enumerate(TASKS, start=1):
        params = on("sdxl-1.0", task, PRESETS[task].images_from)
        for name in told:
            cell, value = table[f"`{name}`"][place], getattr(params, name)
            shown = value if isinstance(value, str) else json.dumps(value)
            assert cell == shown, f"{task}: {name}"


def test_the_page_has_every_presets_range_and_passes():
    table = rows("parameter")
    for place, task in enumerate(TASKS, start=1):
        preset = PRESETS[task]
        ends = f"–{preset.images_to}" if preset.images_to else "+"
        assert table["pictures"][place] == f"{preset.images_from}{ends}"
        assert table["`passes`"][place] == str(preset.passes)


def test_the_pages_arithmetic_is_the_codes():
    table = rows("preset")
    for task in TASKS:
        preset = PRESETS[task]
        for images in (preset.images_from, preset.images_to or 1000):
            assert f"`{task}` {images}" in table, "both ends of the range"
    for cells in table.values():
        task, images = cells[0].strip("`"), int(cells[1])
        params = on("sdxl-1.0", task, images)
        steps = steps_of(params, images)
        trained = images - len(steps.held_out(0))
        passes = params.num_repeats * params.epochs
        shown = trained * passes
        assert cells[2:] == [
            f"{params.num_repeats} × {params.epochs}",
            str(passes),
            str(trained),
            str(steps.total_steps),
            str(shown),
            f"{shown * 0.6 / 3600:.1f}",
            f"{shown * 1.2 / 3600:.1f}",
        ]


def test_the_pages_limits_are_the_codes():
    def says(pattern: str) -> float:
        (found,) = re.findall(pattern, PAGE)
        return float(found)

    assert says(r"between (\d+) passes") == presets.FEWEST_PASSES
    assert says(r"and (\d+) \(the most") == presets.MOST_PASSES
    assert says(r"`num_repeats` is passes / (\d+)") == presets.USUAL_EPOCHS
    assert says(r"more than (\d+) times") == advice.FAR
    assert says(r"fewer than (\d+) steps") == advice.MIN_STEPS
