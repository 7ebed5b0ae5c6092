"""Each optimizer learns, goes on bit for bit from a packed state, and says what it needs."""

import json
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from app.trainings.params import Optimizer, TrainingParams
from worker.ml.training.errors import EXIT_BAD_SPEC, PackageMissing
from worker.ml.training.learning import optimisers
from worker.ml.training.learning.optimisers import (
    ParameterGroup,
    evaluation_weights,
    learning_rate,
    make_optimizer,
    pack,
    require_packages,
    set_learning_rates,
    unpack,
)

CPU = torch.device("cpu")
NAMES = ["down", "up", "scale", "silent"]
OPTIMIZERS = get_args(Optimizer)
# Rates at which each learns the problem below.
RATES = {
    "adamw": 0.02,
    "adamw8bit": 0.02,
    "adafactor": 0.02,
    "prodigy": 1.0,
    "lion": 0.01,
    "adamw_schedulefree": 0.05,
}
# Steps of a whole run: Prodigy first looks for its rate.
STEPS = {name: 100 if name == "prodigy" else 20 for name in OPTIMIZERS}


class Problem:
    """A low-rank product and a vector that should become given ones, as LoRA's should.

    Two tensors are large enough for 8-bit moments, one is too small; one never has a gradient.
    """

    def __init__(self, name: Optimizer, seed: int = 0, **params):
        generator = torch.Generator().manual_seed(seed)
        self.down = nn.Parameter(torch.randn(16, 256, generator=generator) / 16)
        self.up = nn.Parameter(torch.zeros(256, 16))
        self.scale = nn.Parameter(torch.ones(7))
        self.silent = nn.Parameter(torch.ones(3))
        self.target = torch.randn(256, 256, generator=torch.Generator().manual_seed(1))
        rate = RATES[name]
        self.params = TrainingParams(**{"optimizer": name, "learning_rate": rate, **params})
        self.optimizer = make_optimizer(
            [
                ParameterGroup("unet", [self.down, self.up], rate),
                ParameterGroup("text_encoder", [self.scale, self.silent], rate / 2),
            ],
            self.params,
            CPU,
        )

    @property
    def values(self):
        return [self.down, self.up, self.scale, self.silent]

    def loss(self):
        error = self.up @ self.down - self.target
        return error.square().mean() + (self.scale - 3).square().mean()

    def train(self, first: int, last: int) -> None:
        for step in range(first, last):
            set_learning_rates(self.optimizer, 1 - step / 120)
            self.loss().backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def packed(self):
        """The state as a file would hold it."""
        tensors, numbers = pack(self.optimizer, NAMES)
        return save(tensors), json.dumps(numbers)

    def go_on_from(self, other: "Problem", stored) -> None:
        with torch.no_grad():
            for mine, theirs in zip(self.values, other.values, strict=True):
                mine.copy_(theirs)
        unpack(self.optimizer, load(stored[0]), json.loads(stored[1]))


def same(one: Problem, other: Problem) -> bool:
    """Whether weights and the whole state are equal to the bit."""
    return one.packed() == other.packed() and all(
        torch.equal(mine, theirs) for mine, theirs in zip(one.values, other.values, strict=True)
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_short_run_lowers_the_loss(name):
    problem = Problem(name)
    before = problem.loss().item()
    problem.train(0, STEPS[name])
    with evaluation_weights(problem.optimizer):
        assert problem.loss().item() < 0.95 * before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_packed_state_goes_on_bit_for_bit(name):
    whole = Problem(name)
    whole.train(0, STEPS[name])
    stopped = Problem(name)
    stopped.train(0, STEPS[name] // 2)
    stored = stopped.packed()
    resumed = Problem(name, seed=9)
    resumed.go_on_from(stopped, stored)
    resumed.train(STEPS[name] // 2, STEPS[name])
    assert same(resumed, whole)
    # Not because nothing moves.
    assert not same(stopped, whole)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_without_its_moments_would_not_be_enough(name):
    whole = Problem(name)
    whole.train(0, 10)
    forgetful = Problem(name)
    forgetful.train(0, 5)
    fresh = Problem(name, seed=9)
    with torch.no_grad():
        for mine, theirs in zip(fresh.values, forgetful.values, strict=True):
            mine.copy_(theirs)
    fresh.train(5, 10)
    assert not torch.equal(fresh.up, whole.up)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_packed_state_does_not_change_with_the_optimizer(name):
    problem = Problem(name)
    problem.train(0, 3)
    tensors, numbers = pack(problem.optimizer, NAMES)
    before = save(tensors), json.dumps(numbers)
    problem.train(3, 5)
    assert (save(tensors), json.dumps(numbers)) == before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_taken_before_the_first_step_is_one_too(name):
    whole = Problem(name)
    stored = whole.packed()
    resumed = Problem(name, seed=9)
    resumed.go_on_from(whole, stored)
    whole.train(0, 4)
    resumed.train(0, 4)
    assert same(resumed, whole)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_the_spec_decides_is_not_brought_back(name):
    old = Problem(name, weight_decay=0.1)
    old.train(0, 5)
    stored = old.packed()
    new = Problem(name, weight_decay=0.2)
    set_learning_rates(new.optimizer, 0.25)
    before = [float(group["lr"]) for group in new.optimizer.param_groups]
    new.go_on_from(old, stored)
    assert [float(group["lr"]) for group in new.optimizer.param_groups] == before
    assert [group["weight_decay"] for group in new.optimizer.param_groups] == [0.2, 0.2]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_of_zero_moves_nothing(name):
    problem = Problem(name)
    before = [value.detach().clone() for value in problem.values]
    set_learning_rates(problem.optimizer, 0.0)
    problem.loss().backward()
    problem.optimizer.step()
    assert all(torch.equal(value, was) for value, was in zip(problem.values, before, strict=True))
    problem.train(0, 5)
    assert all(value.isfinite().all() for value in problem.values)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_shrinks_weights_the_more(name):
    plain, decayed = Problem(name, weight_decay=0.0), Problem(name, weight_decay=1.0)
    plain.train(0, 10)
    decayed.train(0, 10)
    assert decayed.down.norm() < plain.down.norm()


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "prodigy"])
def test_each_group_has_its_own_rate(name):
    problem = Problem(name)
    set_learning_rates(problem.optimizer, 0.5)
    rates = [float(group["lr"]) for group in problem.optimizer.param_groups]
    assert rates == pytest.approx([RATES[name] / 2, RATES[name] / 4])
    assert learning_rate(problem.optimizer) == pytest.approx(RATES[name] / 2)


def test_prodigy_has_one_rate_for_all_and_finds_it():
    problem = Problem("prodigy")
    assert [group["lr"] for group in problem.optimizer.param_groups] == [1.0, 1.0]
    assert learning_rate(problem.optimizer) == 5e-5
    problem.train(0, STEPS["prodigy"])
    assert 5e-4 < learning_rate(problem.optimizer) < 1


def test_only_large_tensors_have_8_bit_moments():
    problem = Problem("adamw8bit")
    problem.train(0, 1)
    tensors, _ = pack(problem.optimizer, NAMES)
    assert tensors["up.exp_avg.codes"].dtype == torch.uint8
    assert tensors["up.exp_avg_sq.codes"].shape == (256, 16)
    assert tensors["scale.exp_avg"].dtype == torch.float32
    assert not any(name.startswith("silent") for name in tensors)


def test_schedule_free_weights_are_averages_while_they_are_measured():
    problem = Problem("adamw_schedulefree")
    problem.train(0, 5)
    trained = [value.detach().clone() for value in problem.values]
    with evaluation_weights(problem.optimizer):
        averages = [value.detach().clone() for value in problem.values]
        with evaluation_weights(problem.optimizer):
            assert torch.equal(problem.up, averages[1])
        assert torch.equal(problem.up, averages[1])
    assert not torch.equal(averages[1], trained[1])
    assert all(torch.equal(value, was) for value, was in zip(problem.values, trained, strict=True))
    # y = 0.9 x + 0.1 z: where gradients are taken, of the average and the point that walks ahead.
    z = problem.optimizer.state[problem.up]["z"]
    torch.testing.assert_close(trained[1], 0.9 * averages[1] + 0.1 * z)


def test_an_error_while_measuring_brings_the_trained_weights_back():
    problem = Problem("adamw_schedulefree")
    problem.train(0, 5)
    trained = problem.up.detach().clone()
    with pytest.raises(KeyError), evaluation_weights(problem.optimizer):
        raise KeyError
    assert torch.equal(problem.up, trained)
    problem.train(5, 6)


def test_a_state_packed_while_measuring_goes_on_bit_for_bit():
    whole = Problem("adamw_schedulefree")
    whole.train(0, 10)
    stopped, resumed = Problem("adamw_schedulefree"), Problem("adamw_schedulefree", seed=9)
    stopped.train(0, 5)
    with evaluation_weights(stopped.optimizer):
        resumed.go_on_from(stopped, stopped.packed())
    resumed.train(5, 10)
    assert same(resumed, whole)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adamw_schedulefree"])
def test_other_optimizers_measure_what_they_train(name):
    problem = Problem(name)
    problem.train(0, 2)
    trained = problem.up.detach().clone()
    with evaluation_weights(problem.optimizer):
        assert torch.equal(problem.up, trained)
        stored = problem.packed()
    assert stored == problem.packed()


def test_a_state_of_other_parameters_is_refused():
    problem = Problem("adamw")
    problem.train(0, 1)
    with pytest.raises(ValueError, match="3 names for 4 parameters"):
        pack(problem.optimizer, NAMES[:3])
    tensors, numbers = pack(problem.optimizer, NAMES)
    other = make_optimizer(
        [ParameterGroup("unet", [nn.Parameter(torch.ones(3))], 1)], problem.params, CPU
    )
    with pytest.raises(ValueError, match="4 parameters in 2 groups; there are 1 in 1"):
        unpack(other, tensors, numbers)


def test_groups_without_parameters_are_left_out():
    params = TrainingParams()
    group = ParameterGroup("unet", [nn.Parameter(torch.ones(3))], 1e-3)
    optimizer = make_optimizer([ParameterGroup("text_encoder", [], 1e-4), group], params, CPU)
    assert [group["name"] for group in optimizer.param_groups] == ["unet"]
    with pytest.raises(ValueError, match="no parameters to train"):
        make_optimizer([ParameterGroup("text_encoder", [], 1e-4)], params, CPU)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_has_its_package_here(name):
    require_packages(TrainingParams(optimizer=name))


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch):
    # As Python marks a module that is not to be found.
    monkeypatch.setitem(sys.modules, "prodigyopt", None)
    with pytest.raises(
        PackageMissing, match=r"needs prodigyopt.*`pip install prodigyopt==1\.1\.2`"
    ):
        require_packages(TrainingParams(optimizer="prodigy", learning_rate=1))
    assert PackageMissing.exit_code == EXIT_BAD_SPEC
    require_packages(TrainingParams(optimizer="adamw"))


def test_versions_are_those_that_are_pinned():
    project = tomllib.loads((Path(__file__).parents[5] / "pyproject.toml").read_text())
    pinned = project["project"]["optional-dependencies"]["worker"]
    assert {package for _, package in optimisers._PACKAGES.values()} <= set(pinned)
