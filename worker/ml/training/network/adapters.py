"""Put trained layers on a base model's networks: on which modules, of what rank and start."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.trainings.params import TrainingParams
from worker.ml.lora_files.modules import Lora
from worker.ml.lora_files.targets import (
    TARGETS,
    TEXT_TARGETS,
    adaptable_modules,
    canonical_path,
)
from worker.ml.training.errors import WarmStartUnsuitable
from worker.ml.training.learning.optimisers import ParameterGroup
from worker.ml.training.network.layers import (
    Adapted,
    Dropouts,
    LohaLayer,
    LokrLayer,
    LoraLayer,
    load_matrices,
)
from worker.ml.training.network.quantized import QuantizedWeight
from worker.ml.training.sampling import generator_for

# The matrices that LoRA+ trains faster: those that begin at zero.
_UP = ("lora_up.weight", "hada_w2_a", "lokr_w2", "lokr_w2_b")
_LEFT_OUT = 0


@dataclass(frozen=True)
class Choice:
    """What one module is trained with."""

    rank: int
    alpha: float
    learning_rate: float


class Adapters:
    """The trained layers of one base model, by canonical path, ascending."""

    def __init__(self, layers: Mapping[str, Adapted], choices: Mapping[str, Choice]) -> None:
        self.layers = dict(sorted(layers.items()))
        self._choices = choices

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every trained matrix by a stable name, ascending."""
        return {
            f"{path}.{name}": matrix
            for path, layer in self.layers.items()
            for name, matrix in sorted(layer.matrices().items())
        }

    def groups(self, params: TrainingParams) -> list[ParameterGroup]:
        """Matrices that share a learning rate; together they are all of `named_parameters`."""
        found: dict[tuple[float, bool], ParameterGroup] = {}
        for path, layer in self.layers.items():
            for name, matrix in sorted(layer.matrices().items()):
                rate = self._choices[path].learning_rate
                up = name in _UP and params.lora_plus_ratio != 1
                rate *= params.lora_plus_ratio if up else 1
                text = path.startswith("text_encoder")
                label = f"{'text encoders' if text else 'unet'} at {rate:g}"
                group = found.setdefault((rate, text), ParameterGroup(label, [], rate))
                group.parameters.append(matrix)
        return list(found.values())

    def exported(self) -> Lora:
        """The LoRA as it is now, in float32 on the CPU."""
        return Lora({path: layer.exported() for path, layer in self.layers.items()})

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base answers alone inside the block."""
        for layer in self.layers.values():
            layer.enabled = False
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.enabled = True

    @torch.no_grad()
    def limit_norms(self, ceiling: float) -> None:
        """Scale back every change with ‖ΔW‖ above the ceiling; nothing is read from the device."""
        for layer in self.layers.values():
            factor = (ceiling / layer.delta_norm().clamp(min=1e-12)).clamp(max=1)
            layer.one_factor().mul_(factor)


def add_adapters(networks: Mapping[str, nn.Module], params: TrainingParams) -> Adapters:
    """Freeze the networks and put float32 layers on the modules that the parameters name.

    Starts are drawn as kohya's and LyCORIS' are, a pure function of (seed, path); the change is
    zero at first, so the networks answer as they did.

    Args:
        networks: `unet`, and the text encoders if they are trained.

    Raises:
        ValueError: the parameters leave no module to train.
    """
    for network in networks.values():
        network.requires_grad_(False)
    layers: dict[str, Adapted] = {}
    choices: dict[str, Choice] = {}
    for path, (parent, name, module) in _candidates(networks).items():
        choice = choose(path, module, params)
        if choice is None:
            continue
        layer = _layer(module, choice, params)
        layers[path], choices[path] = layer, choice
        _start(layer, path, params)
        setattr(parent, name, layer)
    if not layers:
        raise ValueError("blocks leaves no module to train: every rank is 0")
    return Adapters(layers, choices)


def choose(path: str, module: nn.Module, params: TrainingParams) -> Choice | None:
    """Rank, alpha and rate of one module by canonical path; None: it is not trained."""
    text = path.startswith("text_encoder")
    if text:
        if not params.train_text_encoder or not path.endswith(TEXT_TARGETS):
            return None
    elif not path.endswith(TARGETS[params.target]):
        return None
    rank, alpha = params.rank, params.alpha
    if _kernel(module) > 1:
        rank = params.conv_rank or rank
        alpha = params.conv_alpha or (params.alpha if params.conv_rank is None else float(rank))
    rate = params.text_encoder_learning_rate if text else params.learning_rate
    for block in params.blocks:
        if path == block.match or path.startswith(f"{block.match}."):
            rank = rank if block.rank is None else block.rank
            alpha = alpha if block.alpha is None else block.alpha
            rate = rate if block.learning_rate is None else block.learning_rate
    if rank == _LEFT_OUT:
        return None
    # In a file alpha is over rank, so alpha / √rank is written as (alpha · √rank) / rank.
    return Choice(rank, alpha * math.sqrt(rank) if params.rank_stabilized else alpha, rate)


def warm_start(adapters: Adapters, stored: Lora) -> list[str]:
    """Go on from a LoRA of the same kind and ranks.

    Returns:
        Paths of trained modules that the LoRA has not; they start anew.

    Raises:
        WarmStartUnsuitable: the LoRA has a module that is not trained here, or another rank.
    """
    foreign = sorted(stored.modules.keys() - adapters.layers.keys())
    if foreign:
        raise WarmStartUnsuitable(
            f"the LoRA to go on from changes {len(foreign)} modules that are not trained here, "
            f"{foreign[0]} among them; set target and train_text_encoder as it was made"
        )
    for path, module in stored.modules.items():
        misfit = load_matrices(adapters.layers[path], module)
        if misfit is not None:
            raise WarmStartUnsuitable(f"the LoRA to go on from does not fit {path}: {misfit}")
    return sorted(adapters.layers.keys() - stored.modules.keys())


def base_weights(network: nn.Module) -> dict[str, Tensor]:
    """The frozen weights under the names they had before the layers were put on."""
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    return {
        name.replace(".base.", ".").replace(".table.", "."): tensor
        for name, tensor in network.state_dict().items()
        if name not in trained
    }


def _candidates(
    networks: Mapping[str, nn.Module],
) -> dict[str, tuple[nn.Module, str, nn.Module]]:
    """Linears and convolutions by canonical path, each with its parent and its name there."""
    # Quantised modules are no longer linears, so they are added.
    paths = {id(module): path for path, module in adaptable_modules(networks).items()}
    found: dict[str, tuple[nn.Module, str, nn.Module]] = {}
    for component, network in networks.items():
        for name, parent in network.named_modules():
            for child_name, child in parent.named_children():
                path = paths.get(id(child))
                if path is None and isinstance(child, QuantizedWeight):
                    path = canonical_path(component, f"{name}.{child_name}".lstrip("."))
                if path is not None:
                    found[path] = (parent, child_name, child)
    return dict(sorted(found.items()))


def _layer(module: nn.Module, choice: Choice, params: TrainingParams) -> Adapted:
    dropouts = Dropouts(params.neuron_dropout, params.rank_dropout, params.module_dropout)
    if params.variant == "loha":
        return LohaLayer(module, choice.rank, choice.alpha, dropouts)
    if params.variant == "lokr":
        return LokrLayer(module, choice.rank, choice.alpha, params.lokr_factor, dropouts)
    magnitude = params.variant == "dora"
    return LoraLayer(module, choice.rank, choice.alpha, dropouts, magnitude=magnitude)


@torch.no_grad()
def _start(layer: Adapted, path: str, params: TrainingParams) -> None:
    assert params.seed is not None, "a frozen spec has a seed"
    matrices = layer.matrices()
    for name in sorted(matrices):
        matrix = matrices[name]
        generator = generator_for(params.seed, "init", path, name)
        fresh = torch.zeros(matrix.shape)
        if name in ("lora_down.weight", "lokr_w1", "lokr_w2_a"):
            # kaiming_uniform_ with a = √5 is uniform over ±1/√fan_in.
            bound = 1 / math.sqrt(fresh[0].numel())
            fresh.uniform_(-bound, bound, generator=generator)
        elif name in ("hada_w1_b", "hada_w2_b"):
            fresh.normal_(std=1.0, generator=generator)
        elif name == "hada_w1_a":
            fresh.normal_(std=0.1, generator=generator)
        elif name == "dora_scale":
            # Made from the weight's norms, which change nothing.
            continue
        matrix.copy_(fresh)


def _kernel(module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, Tensor), "linears and convolutions have a weight"
    return int(weight.shape[2:].numel())
