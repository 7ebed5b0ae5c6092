"""What a captioner is: pictures in, one short description each out."""

from collections.abc import Sequence
from typing import Protocol

from PIL import Image


class Captioner(Protocol):
    """Describes pictures. The same picture gets the same words on the same device."""

    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """One caption a picture, in order, normalised by `normalise`; an empty list for none."""
        ...


def normalise(text: str) -> str:
    """Lower case, single spaces, nothing around, no full stop at the end."""
    return " ".join(text.lower().split()).rstrip(" .")
