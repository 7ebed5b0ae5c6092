"""What one pass of the UNet is given: pictures, captions, noise and timesteps of a micro-step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.ml.training import sampling
from worker.ml.training.data import captions
from worker.ml.training.data.latents import LatentStore
from worker.ml.training.parallel import Group
from worker.ml.training.spec import TrainingSpec

# Wordings are chosen among so many when they need not be encoded ahead.
_ANY_WORDING = 2**31


@dataclass(frozen=True)
class Batch:
    """Tensors on the training's device.

    Attributes:
        latents: (B, 4, h, w), float32.
        noise: what is to be found, and `seen_noise`, what is added; the same unless perturbed.
        timesteps: (B,), int64.
        time_ids: (B, 6).
        texts: B captions.
        masks: (B, 1, h, w), or None.
        weights: what each picture's error counts, (B,).
    """

    latents: Tensor
    noise: Tensor
    seen_noise: Tensor
    timesteps: Tensor
    time_ids: Tensor
    texts: list[str]
    masks: Tensor | None
    weights: Tensor

    def __len__(self) -> int:
        return len(self.texts)

    def halves(self, parts: int) -> list["Batch"]:
        """The batch in so many parts, or as many as it has pictures."""
        size = -(-len(self) // min(parts, len(self)))
        return [self._part(slice(start, start + size)) for start in range(0, len(self), size)]

    def _part(self, part: slice) -> "Batch":
        return Batch(
            self.latents[part],
            self.noise[part],
            self.seen_noise[part],
            self.timesteps[part],
            self.time_ids[part],
            self.texts[part],
            None if self.masks is None else self.masks[part],
            self.weights[part],
        )


class BatchMaker:
    """Makes the batch of any micro-step, from nothing but its number and the spec."""

    def __init__(
        self,
        spec: TrainingSpec,
        images: LatentStore,
        wordings: Sequence[Sequence[str]],
        *,
        timesteps: int,
        device: torch.device,
        group: Group,
    ) -> None:
        """Args:
        wordings: each image's captions that were encoded ahead; empty: any wording will do.
        timesteps: of the noise schedule.
        """
        self._spec = spec
        self._images = images
        self._wordings = wordings
        self._timesteps = timesteps
        self._device = device
        self._group = group
        self._options = [captions.caption_options(image, spec.params) for image in spec.images]

    def make(self, numbers: Sequence[int], micro_step: int, epoch: int) -> Batch | None:
        """This process' part of a batch of pictures; None where it has none.

        Args:
            numbers: of the pictures of all processes together.
            epoch: from 0.
        """
        params, seed = self._spec.params, self._spec.seed
        part = self._group.part(len(numbers))
        mine = numbers[part]
        if not mine:
            return None
        every = len(numbers)
        chosen = sampling.choices_for(every, "variants", seed, micro_step)[part]
        latents, time_ids, masks = self._pictures(mine, chosen)
        shape = (every, *latents.shape[1:])
        noise = sampling.noise_for(shape, seed, micro_step, params)[part]
        seen = noise
        if params.input_perturbation:
            generator = sampling.generator_for(seed, "perturbation", micro_step)
            seen = noise + params.input_perturbation * torch.randn(shape, generator=generator)[part]
        timesteps = sampling.timesteps_for(every, seed, micro_step, self._timesteps, params)[part]
        prior = params.prior_preservation
        weights = torch.tensor(
            [
                prior.weight if prior and self._spec.images[number].regularization else 1.0
                for number in mine
            ]
        )
        noise_there = self._there(noise)
        return Batch(
            latents=self._there(latents),
            noise=noise_there,
            seen_noise=noise_there if seen is noise else self._there(seen),
            timesteps=self._there(timesteps),
            time_ids=self._there(time_ids),
            texts=self._texts(numbers, micro_step, epoch)[part],
            masks=None if masks is None else self._there(masks),
            weights=self._there(weights),
        )

    def _pictures(
        self, numbers: Sequence[int], chosen: Sequence[float]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        latents, time_ids, masks = [], [], []
        for number, choice in zip(numbers, chosen, strict=True):
            image = self._images[number]
            variant = int(choice * len(image.variants))
            latents.append(image.variants[variant])
            time_ids.append(image.time_ids[variant])
            masks.append(None if image.masks is None else image.masks[variant])
        stacked = torch.stack(latents)
        if all(mask is None for mask in masks):
            return stacked, torch.stack(time_ids), None
        # A picture without a mask beside others counts everywhere.
        whole = torch.ones(1, *stacked.shape[2:], device=stacked.device)
        filled = [whole if mask is None else mask for mask in masks]
        return stacked, torch.stack(time_ids), torch.stack(filled)

    def _texts(self, numbers: Sequence[int], micro_step: int, epoch: int) -> list[str]:
        seed = self._spec.seed
        dropped = sampling.choices_for(len(numbers), "dropout", seed, micro_step)
        chosen = sampling.choices_for(len(numbers), "captions", seed, micro_step)
        found: list[str] = []
        for number, drop, choice in zip(numbers, dropped, chosen, strict=True):
            options = self._options[number]
            every = options.caption_dropout_every_n_epochs
            silent = bool(every) and (epoch + 1) % every == 0
            if silent or drop < options.caption_dropout_rate:
                found.append("")
            elif self._wordings:
                wordings = self._wordings[number]
                found.append(wordings[int(choice * len(wordings))])
            else:
                caption = self._spec.images[number].caption
                variant = int(choice * _ANY_WORDING)
                found.append(captions.word(caption, options, seed, variant))
        return found

    def _there(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda" and tensor.device.type == "cpu":
            # From pinned memory the copy does not stop the host.
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)
