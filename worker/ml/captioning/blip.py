"""BLIP as a captioner, in batches, deterministic."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from PIL import Image

from worker.ml.base_models.device import DevicePolicy
from worker.ml.captioning.captioner import normalise


class CaptionerUnavailable(Exception):
    """The captioner cannot be loaded from where the catalog says it is."""

    code = "captioner_unavailable"


class BlipCaptioner:
    """A BlipForConditionalGeneration with its image processor and tokenizer."""

    def __init__(
        self,
        network: Any,
        image_processor: Any,
        tokenizer: Any,
        *,
        max_new_tokens: int = 40,
        num_beams: int = 3,
        batch_size: int = 16,
    ) -> None:
        """Wrap a loaded network.

        Args:
            max_new_tokens: ceiling on a caption's length.
            num_beams: 1 decodes greedily; nothing is ever sampled.
            batch_size: pictures through the network at once.
        """
        self._network = network
        self._image_processor = image_processor
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self._num_beams = num_beams
        self._batch_size = batch_size

    @classmethod
    def load(
        cls, location: str, revision: str | None, policy: DevicePolicy, **options: int
    ) -> Self:
        """Load from a folder or the hub, safetensors only.

        Args:
            options: as for `BlipCaptioner`.

        Raises:
            CaptionerUnavailable: the location holds no BLIP in safetensors.
        """
        from transformers import AutoTokenizer, BlipForConditionalGeneration
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        try:
            network = BlipForConditionalGeneration.from_pretrained(
                location, revision=revision, dtype=policy.dtype, use_safetensors=True
            )
            # Pillow's resizing, not torchvision's: one dependency less, the same on each machine.
            image_processor = BlipImageProcessorPil.from_pretrained(location, revision=revision)
            tokenizer = AutoTokenizer.from_pretrained(location, revision=revision)
        except OSError as error:
            raise CaptionerUnavailable(f"{location}: {error}") from error
        network = network.to(policy.device).requires_grad_(False).eval()
        return cls(network, image_processor, tokenizer, **options)

    @torch.inference_mode()
    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """One caption a picture, in order; transparency is seen on white."""
        captions: list[str] = []
        for start in range(0, len(images), self._batch_size):
            batch = [_on_white(image) for image in images[start : start + self._batch_size]]
            pixels = self._image_processor(images=batch, return_tensors="pt").pixel_values
            tokens = self._network.generate(
                pixel_values=pixels.to(self._network.device, self._network.dtype),  # (B, 3, S, S)
                max_new_tokens=self._max_new_tokens,
                num_beams=self._num_beams,
                do_sample=False,
            )
            texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
            captions.extend(normalise(text) for text in texts)
        return captions


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    canvas = Image.new("RGBA", rgba.size, "white")
    canvas.alpha_composite(rgba)
    return canvas.convert("RGB")
