"""diffusers' safety checker: CLIP's view of a picture beside the concepts it was given."""

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from transformers import CLIPImageProcessor


class SafetyChecker:
    """Says of a picture whether it comes too near to one of the checker's concepts."""

    def __init__(self, source: str, device: torch.device) -> None:
        """Load the checker and its image processor, in float32.

        Args:
            source: a folder of `save_pretrained`, or a hub id.

        Raises:
            OSError: it cannot be loaded.
        """
        self._device = device
        self._processor = CLIPImageProcessor.from_pretrained(source)
        self._checker = StableDiffusionSafetyChecker.from_pretrained(source).to(device).eval()

    def refuses(self, image: Image.Image) -> bool:
        """Whether the checker finds a concept in an RGB picture of any size."""
        seen = self._processor(image.convert("RGB"), return_tensors="pt").pixel_values
        # What it finds it would blacken in place: it gets a picture of its own for that.
        shown = np.zeros((1, 1, 1, 3), dtype=np.float32)
        _, found = self._checker(clip_input=seen.to(self._device), images=shown)
        return bool(found[0])
