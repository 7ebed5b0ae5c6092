"""What is trained: a base's networks with layers put on, and the optimizer that moves them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.lora_format.errors import LoraFileError
from app.lora_format.index import LoraIndex
from app.lora_format.names import UnetShape
from worker.ml.base_models.device import DevicePolicy
from worker.ml.base_models.hashing import hash_tensors
from worker.ml.base_models.load import BaseModel, load_base_model
from worker.ml.base_models.trigger_words import (
    TriggerEmbedding,
    TriggerWords,
    add_trigger,
    trigger_vectors,
    vectors_like,
)
from worker.ml.lora_files.modules import Lora
from worker.ml.lora_files.read import read_lora
from worker.ml.lora_files.targets import index_of
from worker.ml.training.data.conditioning import CachedText, Conditioner, TrainedText
from worker.ml.training.data.prepare import Prepared, load_text_encoders, trains_text
from worker.ml.training.data.text import TextEncoders
from worker.ml.training.errors import SpecInvalid, WarmStartUnsuitable
from worker.ml.training.events import Events
from worker.ml.training.learning.objective import NoiseSchedule, adjusted_config
from worker.ml.training.learning.optimisers import (
    ParameterGroup,
    evaluation_weights,
    make_optimizer,
    pack,
    unpack,
)
from worker.ml.training.learning.schedules import rate_factor
from worker.ml.training.memory.ladder import MemoryPlan
from worker.ml.training.memory.plan import Plan
from worker.ml.training.network.adapters import Adapters, add_adapters, base_weights, warm_start
from worker.ml.training.network.attention import choose_attention
from worker.ml.training.network.ema import RunningAverage
from worker.ml.training.network.quantized import quantize
from worker.ml.training.parallel import Group
from worker.ml.training.spec import TrainingSpec
from worker.ml.training.step import Denoiser, Stepper

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_AVERAGE = "average."
_VALUE = "value."
_MOMENT = "moment."


@dataclass
class Trainee:
    """A base model in training.

    Attributes:
        networks: `unet`, and the text encoders if gradients go through them.
        parameters: all that is trained, by stable names, ascending.
        tables: of the trigger word's vectors, by text encoder.
        shape, index: of the base, for names in files.
        prediction: what the UNet predicts.
        scheduler_config: the base's own, with what the parameters say otherwise.
    """

    spec: TrainingSpec
    plan: Plan
    networks: dict[str, Any]
    adapters: Adapters
    parameters: dict[str, nn.Parameter]
    tables: dict[str, TriggerEmbedding]
    denoiser: Denoiser
    stepper: Stepper
    optimizer: torch.optim.Optimizer
    average: RunningAverage | None
    shape: UnetShape
    index: LoraIndex
    scheduler_config: dict[str, Any]
    memory: MemoryPlan
    # Names of the optimizer's parameters, in the order of its groups.
    _names: list[str]

    @property
    def prediction(self) -> str:
        """`epsilon` or `v_prediction`."""
        return self.denoiser.schedule.prediction

    def base_hash(self) -> str:
        """Of the frozen weights as they are now."""
        return hash_tensors(
            {
                f"{part}.{name}": tensor
                for part, network in self.networks.items()
                for name, tensor in base_weights(network).items()
            }
        )

    def lora(self) -> Lora:
        """The LoRA as it is now, in float32 on the CPU."""
        found = self.adapters.exported()
        vectors = trigger_vectors(self.tables)
        return Lora(found.modules, {}, vectors, self.spec.trigger_word if vectors else None)

    def train(self) -> None:
        """Networks with layers drop what they are told to drop."""
        for network in self.networks.values():
            network.train()

    def settle(self, memory: MemoryPlan) -> None:
        """Bring the networks to a memory plan; one that asks less than the last is not undone."""
        for name, network in self.networks.items():
            if memory.checkpointing:
                if name == "unet":
                    network.enable_gradient_checkpointing()
                else:
                    network.activation_checkpointing_enable()
            if memory.storage != "full":
                quantize(network, memory.storage)
        self.memory = memory

    @contextmanager
    def answering(self) -> Iterator[None]:
        """The weights that are measured and saved are in place inside the block."""
        with ExitStack() as stack:
            stack.enter_context(evaluation_weights(self.optimizer))
            if self.average is not None:
                stack.enter_context(self.average.in_place())
            yield

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a step changes, for the state: tensors, and what JSON can hold."""
        moments, packed = pack(self.optimizer, self._names)
        found: dict[str, Tensor] = {
            f"{_VALUE}{name}": value for name, value in self.parameters.items()
        }
        found |= {f"{_MOMENT}{name}": value for name, value in moments.items()}
        if self.average is not None:
            found |= {f"{_AVERAGE}{n}": value for n, value in self.average.tensors().items()}
        scaler = self.stepper.scaler
        scale = scaler.state_dict() if scaler.is_enabled() else None
        return found, {"optimizer": packed, "scaler": scale}

    def restore(self, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]) -> None:
        """Take all that back."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"{_VALUE}{name}"])
        unpack(self.optimizer, _under(_MOMENT, tensors), extra["optimizer"])
        if self.average is not None:
            self.average.load(_under(_AVERAGE, tensors))
        if extra["scaler"] is not None:
            self.stepper.scaler.load_state_dict(extra["scaler"])


def load_trainee(
    spec: TrainingSpec, plan: Plan, prepared: Prepared, group: Group, events: Events
) -> Trainee:
    """Load the networks that are trained, put layers on, and make the optimizer.

    Raises:
        SpecInvalid: warm-up is longer than the run.
        WarmStartUnsuitable: the LoRA to go on from does not fit.
        ValueError: the base model is of a kind that is not trained.
    """
    params = spec.params
    base = _load_unet(spec, plan)
    networks: dict[str, Any] = {"unet": base.unet}
    encoders: TextEncoders | None = None
    if trains_text(spec):
        encoders = load_text_encoders(spec, plan.policy)
        networks |= dict(zip(TEXT_ENCODERS, encoders.encoders, strict=True))
    # Before weights are made small and layers put on, while every module is what it was.
    index = index_of(networks)
    if plan.memory.storage != "full":
        quantize(base.unet, plan.memory.storage)
        base.unet.to(plan.device)
    adapters = add_adapters(networks, params)
    choose_attention(base.unet, step_by_step=plan.plain_attention, join=plan.device.type == "cuda")
    if spec.warm_start is not None:
        _go_on_from(Path(spec.warm_start), adapters, index, events)
    triggers, tables = _trigger(spec, encoders)
    parameters = adapters.named_parameters()
    parameters |= {f"trigger.{name}": table.vectors for name, table in tables.items()}
    groups = adapters.groups(params)
    if tables:
        vectors = [table.vectors for table in tables.values()]
        groups.append(ParameterGroup("trigger word", vectors, params.trigger_learning_rate))
    optimizer = make_optimizer(groups, params, plan.device)
    try:
        factor = rate_factor(params, prepared.steps.total_steps)
    except ValueError as error:
        raise SpecInvalid(str(error)) from error
    condition: Conditioner
    if encoders is not None:
        condition = TrainedText(encoders, plan.policy.dtype, triggers)
    else:
        assert prepared.texts is not None, "texts are prepared unless their encoders are trained"
        condition = CachedText(prepared.texts, plan.device, plan.policy.dtype)
    schedule = NoiseSchedule.of(base.scheduler_config, params).to(plan.device)
    denoiser = Denoiser(base.unet, condition, schedule, plan.policy.dtype)
    scaler = torch.amp.GradScaler(plan.device.type, enabled=plan.policy.dtype == torch.float16)
    ordered = [parameter for each in groups for parameter in each.parameters]
    names = {id(parameter): name for name, parameter in parameters.items()}
    trainee = Trainee(
        spec=spec,
        plan=plan,
        networks=networks,
        adapters=adapters,
        parameters=dict(sorted(parameters.items())),
        tables=tables,
        denoiser=denoiser,
        stepper=Stepper(denoiser, params, ordered, optimizer, factor, scaler, group),
        optimizer=optimizer,
        average=RunningAverage(parameters, params.ema_decay) if params.ema_decay else None,
        shape=UnetShape.of(base.unet.config),
        index=index,
        scheduler_config=adjusted_config(base.scheduler_config, params),
        memory=MemoryPlan(),
        _names=[names[id(parameter)] for parameter in ordered],
    )
    trainee.settle(plan.memory)
    trainee.train()
    return trainee


def _load_unet(spec: TrainingSpec, plan: Plan) -> BaseModel:
    """The UNet; with the host if it is to be made small, as the device may have no room for all."""
    base, policy = spec.base_model, plan.policy
    if plan.memory.storage != "full":
        policy = DevicePolicy(torch.device("cpu"), policy.dtype, policy.vae_dtype)
    return load_base_model(
        base.location, base.revision, policy, parts=("unet",), variant=base.variant
    )


def _go_on_from(path: Path, adapters: Adapters, index: LoraIndex, events: Events) -> None:
    try:
        stored, unmatched = read_lora(path, index)
    except (LoraFileError, OSError) as error:
        raise WarmStartUnsuitable(f"{path.name}: {error}") from error
    if unmatched:
        raise WarmStartUnsuitable(
            f"{path.name} has {len(unmatched)} parts that fit no module of this base, "
            f"{unmatched[0]} among them"
        )
    fresh = warm_start(adapters, stored)
    events.log(f"going on from {path.name}: {len(stored.modules)} modules, {len(fresh)} more anew")


def _trigger(
    spec: TrainingSpec, encoders: TextEncoders | None
) -> tuple[TriggerWords, dict[str, TriggerEmbedding]]:
    count, word = spec.params.trigger_vectors, spec.trigger_word
    if not count:
        return TriggerWords(), {}
    if not word:
        raise SpecInvalid(f"trigger_vectors is {count}, but there is no trigger word to train")
    assert encoders is not None, "text encoders are loaded when a trigger word is trained"
    tables = {
        name: add_trigger(encoder, vectors_like(tokenizer, encoder, word, count))
        for name, tokenizer, encoder in zip(
            TEXT_ENCODERS, encoders.tokenizers, encoders.encoders, strict=True
        )
    }
    return TriggerWords(((word, count),)), tables


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
