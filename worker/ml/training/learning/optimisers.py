"""The optimizers a run may choose from: making one, setting its rate, and keeping its whole state.

Only torch's own AdamW is always there; the others come from libraries that are imported when they
are chosen. Whatever a library does, a resumed run goes on from the same bits.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from app.trainings.params import TrainingParams
from worker.ml.training.errors import PackageMissing

JsonObject = dict[str, Any]

# What each optimizer needs besides torch: the module and the package that holds it.
_PACKAGES = {
    "adamw8bit": ("torchao", "torchao==0.18.0"),
    "adafactor": ("transformers", "transformers==5.23.0"),
    "prodigy": ("prodigyopt", "prodigyopt==1.1.2"),
    "lion": ("lion_pytorch", "lion-pytorch==0.2.5"),
    "adamw_schedulefree": ("schedulefree", "schedulefree==1.4.1"),
}
# Numbers that steps change in a parameter group; all else there comes from the spec.
# Prodigy's estimate of the distance and what it is made of; schedule-free's average.
_LEARNED = ("k", "d", "d_max", "d_hat", "d_numerator", "d_denom", "weight_sum", "lr_max")
# Where a schedule-free optimizer's weights wait while its average stands in for them.
_SET_ASIDE = "training_value"
# Where Prodigy's estimate begins, which only grows: a rate that does a LoRA no harm. From the usual
# 1e-6 it stands still for 50 steps or so, which is much of a short run.
_LEAST_DISTANCE = 5e-5


@dataclass
class ParameterGroup:
    """Parameters that share a learning rate; `name` is for people."""

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float


def require_packages(params: TrainingParams) -> None:
    """See that the chosen optimizer can be imported, without importing it.

    Raises:
        PackageMissing: its package is not installed; the message says how to install it.
    """
    module, package = _PACKAGES.get(params.optimizer, ("torch", "torch"))
    if importlib.util.find_spec(module) is None:
        raise PackageMissing(
            f"optimizer {params.optimizer} needs {package.partition('==')[0]}, which is not "
            f"installed here; `pip install {package}` brings it"
        )


def make_optimizer(
    groups: Sequence[ParameterGroup], params: TrainingParams, device: torch.device
) -> torch.optim.Optimizer:
    """The chosen optimizer over these parameters, none of them in two groups, all on `device`.

    Raises:
        ValueError: there is nothing to train.
    """
    settings: list[JsonObject] = [
        {
            "params": list(group.parameters),
            "lr": group.learning_rate,
            # As torch's schedulers call the rate that a schedule's factor is of.
            "initial_lr": group.learning_rate,
            # In each group rather than for all: Prodigy prints a line about it otherwise.
            "weight_decay": params.weight_decay,
            "name": group.name,
        }
        for group in groups
        if group.parameters
    ]
    if not settings:
        raise ValueError("there are no parameters to train")
    match params.optimizer:
        case "adamw":
            return torch.optim.AdamW(settings, fused=True)
        case "adamw8bit":
            return _adamw8bit(settings, device)
        case "adafactor":
            from transformers.optimization import Adafactor

            # Rates are those of the spec, not of the number of steps or the size of the weights:
            # the up matrices start at zero.
            return Adafactor(settings, relative_step=False, scale_parameter=False)
        case "prodigy":
            from prodigyopt import Prodigy

            # It reads two numbers off the device for each parameter in each step, to estimate the
            # distance on the host, and so waits for the device; nothing in it switches that off.
            # It refuses groups of different rates, since the estimate is one for all.
            for group in settings:
                group["lr"] = group["initial_lr"] = params.learning_rate
            return Prodigy(
                settings,
                lr=params.learning_rate,
                d0=_LEAST_DISTANCE,
                # Both as its authors advise for diffusion models; without the second, steps with a
                # low rate during warm-up would count for more than their due in the estimate.
                use_bias_correction=True,
                safeguard_warmup=True,
            )
        case "lion":
            from lion_pytorch import Lion

            return Lion(settings)
        case "adamw_schedulefree":
            from schedulefree import AdamWScheduleFree

            optimizer = AdamWScheduleFree(settings)
            optimizer.train()
            return optimizer


def _adamw8bit(settings: list[JsonObject], device: torch.device) -> torch.optim.Optimizer:
    """torchao's AdamW, whose moments are 8-bit in blocks of 256 (Dettmers et al. 2021).

    Tensors of fewer than 4096 values, or not a multiple of 256, keep moments of full precision.
    """
    from torchao.optim import AdamW8bit

    class Uncompiled(AdamW8bit):
        """Takes the same step without compiling it."""

        def step(self, closure: Any = None) -> Any:
            # torchao compiles its arithmetic for each shape, seven seconds each on a CPU, where
            # it is then no faster than without.
            with torch.compiler.set_stance("force_eager"):
                return super().step(closure)

    return Uncompiled(settings) if device.type == "cpu" else AdamW8bit(settings)


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give each group its own rate times the schedule's factor, >= 0; nothing waits for a device.

    Adafactor and the others take it as the next step's rate; Prodigy multiplies what it found.
    """
    for group in optimizer.param_groups:
        rate = group["initial_lr"] * factor
        if isinstance(group["lr"], Tensor):
            # torchao keeps it in a tensor on the CPU, so that compiled code need not be made anew.
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The rate of the first group as it is now; of Prodigy, times the distance it estimates."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) * float(group.get("d", 1.0))


@contextmanager
def evaluation_weights(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Let the parameters be those to measure, draw and save; they are as before at the end.

    Schedule-free training (Defazio et al. 2024) takes its gradients at one point and answers with
    an average; the others train what they answer with, and nothing happens. The set-aside
    parameters take their own size of memory on the device. May be nested. A state packed inside
    holds them too.
    """
    if not _is_schedule_free(optimizer) or not optimizer.param_groups[0]["train_mode"]:
        yield
        return
    # The library's way back from the average rounds; a copy does not, so that a run makes the same
    # bits wherever it is measured.
    for parameter in _parameters(optimizer):
        if "z" in optimizer.state[parameter]:
            optimizer.state[parameter][_SET_ASIDE] = parameter.detach().clone()
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        _back_to_training(optimizer)


def _back_to_training(optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        for parameter in _parameters(optimizer):
            value = optimizer.state[parameter].pop(_SET_ASIDE, None)
            if value is not None:
                parameter.copy_(value)
    for group in optimizer.param_groups:
        group["train_mode"] = True


def pack(
    optimizer: torch.optim.Optimizer, names: Sequence[str]
) -> tuple[dict[str, Tensor], JsonObject]:
    """All that steps have changed in an optimizer, exactly.

    Args:
        names: a name for each parameter, in the order of the groups.

    Returns:
        Plain tensors on the CPU that share no memory, and what JSON can hold: Python's floats
        survive it to the bit.

    Raises:
        ValueError: there are not as many names as parameters.
    """
    parameters = _parameters(optimizer)
    if len(names) != len(parameters):
        raise ValueError(f"{len(names)} names for {len(parameters)} parameters")
    tensors: dict[str, Tensor] = {}
    states: JsonObject = {}
    for name, parameter in zip(names, parameters, strict=True):
        entries: JsonObject = {}
        for key, value in optimizer.state.get(parameter, {}).items():
            if _is_quantised(value):
                parts, (signed, _) = value.__tensor_flatten__()
                for part in parts:
                    tensors[f"{name}.{key}.{part}"] = _copy(getattr(value, part))
                entries[key] = {"parts": parts, "signed": signed}
            elif isinstance(value, Tensor):
                tensors[f"{name}.{key}"] = _copy(value)
                entries[key] = {}
            else:
                entries[key] = {"number": value}
        states[name] = entries
    groups = [
        {key: group[key] for key in _LEARNED if key in group} for group in optimizer.param_groups
    ]
    return tensors, {"states": states, "groups": groups}


def unpack(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], packed: JsonObject
) -> None:
    """Make a fresh optimizer what the packed one was, whose parameters have their values already.

    Rates, decay and whatever else the spec decides stay as they are. A state that was packed
    inside `evaluation_weights` gives the parameters back the values that training goes on from.

    Raises:
        ValueError: it is of other parameters.
    """
    parameters, states, groups = _parameters(optimizer), packed["states"], packed["groups"]
    if len(states) != len(parameters) or len(groups) != len(optimizer.param_groups):
        raise ValueError(
            f"the state is of {len(states)} parameters in {len(groups)} groups; there are "
            f"{len(parameters)} in {len(optimizer.param_groups)}"
        )
    for group, stored in zip(optimizer.param_groups, groups, strict=True):
        group.update(stored)
    fused = bool(optimizer.param_groups[0].get("fused"))
    for parameter, (name, entries) in zip(parameters, states.items(), strict=True):
        state: JsonObject = {}
        for key, entry in entries.items():
            # Steps are counted on the CPU by all but fused optimizers.
            device = parameter.device if key != "step" or fused else torch.device("cpu")
            if "number" in entry:
                state[key] = entry["number"]
            elif "parts" in entry:
                state[key] = _quantised(
                    {
                        part: tensors[f"{name}.{key}.{part}"].to(device, copy=True)
                        for part in entry["parts"]
                    },
                    entry["signed"],
                    parameter.dtype,
                )
            else:
                state[key] = tensors[f"{name}.{key}"].to(device, copy=True)
        optimizer.state[parameter] = state
    if _is_schedule_free(optimizer):
        _back_to_training(optimizer)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _is_quantised(value: Any) -> bool:
    return isinstance(value, Tensor) and hasattr(value, "__tensor_flatten__")


def _quantised(parts: dict[str, Tensor], signed: bool, dtype: torch.dtype) -> Tensor:
    from torchao.optim.subclass_8bit import OptimState8bit

    return OptimState8bit.__tensor_unflatten__(parts, [signed, dtype])


def _is_schedule_free(optimizer: torch.optim.Optimizer) -> bool:
    return "train_mode" in optimizer.param_groups[0]


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
