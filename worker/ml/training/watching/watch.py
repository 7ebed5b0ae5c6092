"""What is measured at checkpoints: held-out pictures, the base beside them, generic prompts."""

from collections.abc import Callable
from functools import cached_property

from worker.ml.training.data import captions
from worker.ml.training.data.latents import LatentImage
from worker.ml.training.data.prepare import Prepared
from worker.ml.training.spec import TrainingSpec
from worker.ml.training.state import Measured
from worker.ml.training.trainee import Trainee
from worker.ml.training.watching.drift import PriorDrift
from worker.ml.training.watching.validation import validation_loss


class Watch:
    """Measures one training; the base's figures are taken once."""

    def __init__(
        self, spec: TrainingSpec, prepared: Prepared, trainee: Trainee, pause: Callable[[], None]
    ) -> None:
        """`pause` is called between pictures; what it raises ends the measurement."""
        self._spec = spec
        self._prepared = prepared
        self._trainee = trainee
        self._pause = pause
        self._base_losses: dict[tuple[int, ...], float] = {}

    def measure(self, epoch: int) -> Measured:
        """After some epoch (from 0), on the pictures that it held out."""
        held_out = self._prepared.steps.held_out(epoch)
        base_loss = self._base_loss(held_out)
        drift = self._drift
        with self._trainee.answering():
            return Measured(
                validation_loss=self._loss(held_out) if held_out else None,
                base_validation_loss=base_loss,
                prior_drift=None if drift is None else drift.measure(self._pause),
            )

    def _base_loss(self, held_out: tuple[int, ...]) -> float | None:
        if not held_out:
            return None
        if held_out not in self._base_losses:
            with self._trainee.adapters.off():
                self._base_losses[held_out] = self._loss(held_out)
        return self._base_losses[held_out]

    def _loss(self, held_out: tuple[int, ...]) -> float:
        batch_size = max(1, self._spec.params.batch_size // self._trainee.memory.parts)
        device = self._trainee.plan.device
        pictures = [self._picture(number) for number in held_out]
        return validation_loss(self._trainee.denoiser, pictures, device, batch_size, self._pause)

    def _picture(self, number: int) -> tuple[int, LatentImage, str]:
        image, params = self._spec.images[number], self._spec.params
        options = captions.caption_options(image, params)
        # The first wording, which is the caption in the order it was written in.
        text = captions.word(image.caption, options, self._spec.seed, 0)
        return number, self._prepared.images[number], text

    @cached_property
    def _drift(self) -> PriorDrift | None:
        if not self._spec.generic_prompts:
            return None
        side = self._spec.params.resolution
        latent = side // self._spec.base_model.vae_scale_factor
        with self._trainee.adapters.off():
            return PriorDrift(
                self._trainee.denoiser,
                self._spec.generic_prompts,
                (4, latent, latent),
                (side, side, 0, 0, side, side),
                self._trainee.plan.device,
                self._pause,
            )
