"""The base models that LoRAs can be made for: every module, and the shape of its weight.

The lists under assets/architectures/ are written by `python -m tools.architectures`.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from app.lora_format.index import LoraIndex
from app.lora_format.names import UnetShape
from app.lora_format.shapes import Shape

FOLDER = Path(__file__).parents[2] / "assets" / "architectures"


@dataclass(frozen=True)
class Architecture:
    """One of them.

    Attributes:
        id: as the catalog's entries name it.
        title: as people do.
        text_width: of the text that cross attention reads.
        token_widths: of each text encoder's token vectors.
        weights: (out, in) of each linear and (out, in, kh, kw) of each convolution, by canonical
            path.
        shape: of the UNet, for kohya's names.
        index: the same modules by every name that files give them.
    """

    id: str
    title: str
    text_width: int
    token_widths: dict[str, int]
    weights: dict[str, Shape]
    shape: UnetShape
    index: LoraIndex


@cache
def architectures() -> dict[str, Architecture]:
    """All that are known, by id."""
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.json"))}


def _read(path: Path) -> Architecture:
    stored = json.loads(path.read_text(encoding="utf-8"))
    weights = {name: tuple(shape) for name, shape in stored["weights"].items()}
    shape = UnetShape(stored["layers_per_block"], tuple(stored["attends_up"]))
    return Architecture(
        id=path.stem,
        title=stored["title"],
        text_width=stored["text_width"],
        token_widths=stored["token_widths"],
        weights=weights,
        shape=shape,
        index=LoraIndex(weights, shape),
    )
