"""What a training needs is foretold from measurements, and the first plan that fits is taken."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.trainings.params import TrainingParams
from bench import sdxl
from bench.memory import Setting, measure, meta_unet
from worker.ml.training.errors import OutOfMemory
from worker.ml.training.memory.footprint import (
    COEFFICIENTS,
    GIB,
    SDXL,
    Demand,
    Footprint,
    choose,
    smaller_storage,
)
from worker.ml.training.memory.ladder import MemoryPlan

REPOSITORY = Path(__file__).parents[5]
MEASURED = json.loads((REPOSITORY / "bench" / "results" / "memory_sdxl.json").read_text())["points"]


def _demand(**changes) -> Demand:
    return Demand.of(TrainingParams(**changes), SDXL, 8)


def _step_bytes(point) -> float:
    found = COEFFICIENTS[point["target"], point["checkpointing"], point["storage"] != "full"]
    latents = (point["resolution"] // 8) ** 2
    opened = SDXL.opened_bytes(point["storage"])
    return found.step_bytes(
        point["trained"], point["batch"], latents, point["rank"], opened_bytes=opened
    )


def test_every_measured_step_is_foretold_within_a_tenth():
    assert len(MEASURED) == 144
    for point in MEASURED:
        assert _step_bytes(point) == pytest.approx(point["step_bytes"], rel=0.1), point


def test_frozen_and_trained_weights_are_counted_to_the_byte():
    for point in MEASURED:
        params = TrainingParams(rank=point["rank"], target=point["target"])
        assert SDXL.base_bytes(point["storage"], 2) == point["base_bytes"]
        assert Demand.of(params, SDXL, 8).trained == point["trained"]


def test_sdxl_is_what_its_architecture_says():
    assert Footprint.of(meta_unet(sdxl.UNET)) == SDXL


@pytest.mark.parametrize(("checkpointing", "error"), [(False, 0.3), (True, 0.3)])
def test_a_small_base_is_foretold_by_its_width(checkpointing, error):
    config = json.loads((REPOSITORY / "assets/emoji-64/unet/config.json").read_text())
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    setting = Setting(256, 4, 32, "attention", checkpointing, "full")
    point = measure(config, setting, vae_scale_factor=4, pooled=128)
    base = Footprint.of(meta_unet(config))
    width = base.width_checkpointed if checkpointing else base.width_kept
    found = COEFFICIENTS["attention", checkpointing, False]
    foretold = found.step_bytes(point.trained, 4, 64**2, 32, width=width)
    assert foretold == pytest.approx(point.step_bytes, rel=error)


# What a card of so many GB has left when its driver and a desktop have taken theirs.
@pytest.mark.parametrize(
    ("free_gib", "plan"),
    [
        (6.8, MemoryPlan(checkpointing=True, parts=2)),
        (11.0, MemoryPlan(checkpointing=True)),
        (22.5, MemoryPlan()),
        (78.0, MemoryPlan()),
    ],
    ids=["8 GB", "12 GB", "24 GB", "80 GB"],
)
def test_the_defaults_train_on_cards_of_all_sizes(free_gib, plan):
    demand = _demand()
    assert (demand.rank, demand.target, demand.batch_size) == (32, "attention", 2)
    chosen = choose(int(free_gib * GIB), demand, "int8")
    assert chosen.plan == plan
    assert chosen.needed_bytes <= free_gib * GIB
    assert chosen.needed_bytes == demand.bytes_under(plan)


def test_each_thing_given_up_is_said_with_its_figures():
    chosen = choose(int(6.8 * GIB), _demand(), "int8")
    assert len(chosen.reasons) == 3
    for reason in chosen.reasons[1:]:
        assert "6.8 GiB free" in reason
    assert "computed twice, 1 of 2 pictures at once" in chosen.reasons[-1]
    assert f"{chosen.needed_bytes / GIB:.1f} GiB needed" in chosen.reasons[-1]


def test_a_quantised_base_is_the_last_thing_given_up():
    chosen = choose(int(5.0 * GIB), _demand(batch_size=4), "fp8")
    assert chosen.plan == MemoryPlan(checkpointing=True, parts=4, storage="fp8")


def test_a_card_that_nothing_fits_is_told_what_is_needed_and_free():
    with pytest.raises(OutOfMemory, match=r"needs about \d\.\d GiB even with .* 2\.0 GiB are free"):
        choose(2 * GIB, _demand(), "int8")


def test_what_was_asked_for_is_neither_added_nor_dropped():
    assert choose(80 * GIB, _demand(), "int8", checkpointing="on").plan.checkpointing
    halved = choose(14 * GIB, _demand(), "int8", checkpointing="off").plan
    assert halved == MemoryPlan(checkpointing=False, parts=2)
    assert choose(80 * GIB, _demand(), "int8", storage="int8").plan.storage == "int8"
    with pytest.raises(OutOfMemory, match="frozen weights as they are"):
        choose(5 * GIB, _demand(), "int8", storage="full")


def test_more_of_anything_never_needs_less():
    demand = _demand()
    for plan in (MemoryPlan(), MemoryPlan(True), MemoryPlan(True, 2, "int8")):
        least = demand.bytes_under(plan)
        more = [
            replace(demand, batch_size=demand.batch_size * 2),
            replace(demand, latents=demand.latents * 2),
            replace(demand, rank=64, trained=demand.trained * 2),
            replace(demand, element=4),
            replace(demand, state_bytes=16.0),
            replace(demand, cache_bytes=GIB),
        ]
        assert all(each.bytes_under(plan) > least for each in more)


def test_float8_is_for_devices_that_read_it():
    assert smaller_storage((8, 9)) == smaller_storage((9, 0)) == "fp8"
    assert smaller_storage((8, 6)) == smaller_storage((7, 5)) == "int8"
