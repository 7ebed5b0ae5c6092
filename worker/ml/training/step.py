"""One step of training: forward, backward, the sum over processes, the optimizer.

Nothing here waits for the device: losses and norms stay on it until somebody reads them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.trainings.params import TrainingParams
from worker.ml.training.batches import Batch
from worker.ml.training.data.conditioning import Conditioner
from worker.ml.training.learning.objective import NoiseSchedule, image_errors, timestep_weights
from worker.ml.training.learning.optimisers import set_learning_rates
from worker.ml.training.parallel import Group
from worker.ml.training.sampling import number_for


@dataclass
class Denoiser:
    """The UNet and what it needs to answer for a batch.

    Attributes:
        dtype: that the UNet takes and computes in.
    """

    unet: nn.Module
    condition: Conditioner
    schedule: NoiseSchedule
    dtype: torch.dtype

    def predict(
        self, noisy: Tensor, timesteps: Tensor, texts: Sequence[str], time_ids: Tensor
    ) -> Tensor:
        """The UNet's answer, (B, 4, h, w)."""
        tokens, pooled = self.condition(texts)
        answer: Tensor = self.unet(
            noisy.to(self.dtype),
            timesteps,
            encoder_hidden_states=tokens,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            return_dict=False,
        )[0]
        return answer

    def errors(self, batch: Batch, params: TrainingParams) -> Tensor:
        """What each picture of a batch adds to the loss, (B,), float32."""
        noisy = self.schedule.add_noise(batch.latents, batch.seen_noise, batch.timesteps)
        predicted = self.predict(noisy, batch.timesteps, batch.texts, batch.time_ids)
        target = self.schedule.target(batch.latents, batch.noise, batch.timesteps)
        errors = image_errors(predicted, target, params, batch.masks) * batch.weights
        by_timestep = timestep_weights(
            self.schedule.snr(batch.timesteps), params, self.schedule.prediction
        )
        return errors if by_timestep is None else errors * by_timestep


@dataclass
class Stepper:
    """Turns batches into steps of the optimizer.

    Attributes:
        parameters: all that is trained, the same on every process.
        factor: of the learning rates, by step.
    """

    denoiser: Denoiser
    params: TrainingParams
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    factor: Callable[[int], float]
    scaler: torch.amp.GradScaler
    group: Group

    def gradients(self, batches: Sequence[Batch], pictures: int, parts: int, step: int) -> Tensor:
        """Add up the gradients of this process' batches of a step; their part of its loss.

        Args:
            pictures: of the step, all processes' together: each counts alike, so it makes no
                difference how they were parted into batches.
            parts: into how many each batch is cut, to save memory.
        """
        total = torch.zeros((), device=self.parameters[0].device)
        for number, batch in enumerate(batches):
            for half, part in enumerate(batch.halves(parts)):
                self._seed_dropout(step, number, half)
                loss = self.denoiser.errors(part, self.params).sum() / pictures
                self.scaler.scale(loss).backward()
                total += loss.detach()
        return total

    def apply(self, step: int, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over the processes, clip, and move; the step's loss and its gradient's norm."""
        set_learning_rates(self.optimizer, self.factor(step))
        loss = self.group.sum_gradients(self.parameters, loss)
        self.scaler.unscale_(self.optimizer)
        limit = self.params.max_grad_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.parameters, limit)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.forget()
        return loss, norm.detach()

    def forget(self) -> None:
        """Drop gradients, as before a step that is begun anew."""
        self.optimizer.zero_grad(set_to_none=True)

    def _seed_dropout(self, step: int, batch: int, part: int) -> None:
        """Layers that drop draw from the global generators, which are set for each pass."""
        params = self.params
        if params.neuron_dropout or params.rank_dropout or params.module_dropout:
            assert params.seed is not None, "a frozen spec has a seed"
            torch.manual_seed(number_for(params.seed, "layers", step, batch, part, self.group.rank))
