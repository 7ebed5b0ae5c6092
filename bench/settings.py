"""What all loops of a comparison are told, and how our trainer is told the same."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

REPOSITORY = Path(__file__).parents[1]
BASE = REPOSITORY / "assets" / "emoji-64"


@dataclass(frozen=True)
class Settings:
    """The same for every loop; defaults are the service's own."""

    pictures: list[str] = field(default_factory=list)
    base: str = str(BASE)
    resolution: int = 64
    batch_size: int = 4
    rank: int = 32
    alpha: float = 16.0
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    min_snr_gamma: float = 5.0
    steps: int = 50
    precision: Literal["bf16", "no"] = "no"
    checkpointing: bool = False

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """From the file that `write` made."""
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> Path:
        """As JSON; the same path."""
        path.write_text(json.dumps(asdict(self)))
        return path

    def spec(self) -> dict[str, Any]:
        """The trainer's spec that says the same; nothing is measured or drawn on the way."""
        return {
            "format": "lorawright.training/1",
            "name": "bench",
            "trigger_word": None,
            "params": {
                "rank": self.rank,
                "alpha": self.alpha,
                "target": "attention",
                "learning_rate": self.learning_rate,
                "lr_scheduler": "constant",
                "weight_decay": self.weight_decay,
                "max_grad_norm": self.max_grad_norm,
                "min_snr_gamma": self.min_snr_gamma,
                "batch_size": self.batch_size,
                "num_repeats": 1,
                "epochs": 1000,
                "max_steps": self.steps,
                "resolution": self.resolution,
                "shuffle_caption": False,
                "caption_dropout_rate": 0.0,
                "validation_fraction": 0.0,
                "save_every_n_epochs": 1000,
                "mixed_precision": self.precision,
                "gradient_checkpointing": "on" if self.checkpointing else "off",
                "seed": 1,
            },
            "base_model": {
                "id": "emoji-64",
                "location": self.base,
                "architecture": "emoji-64",
                "native_resolution": 64,
                "vae_scale_factor": 4,
            },
            "images": [_image(Path(path)) for path in self.pictures],
            "generic_prompts": [],
        }


def example_pictures(batch_size: int) -> list[str]:
    """The examples' pictures, as many as make whole batches."""
    found = sorted((REPOSITORY / "examples").glob("*/*.png"))
    captioned = [str(path) for path in found if path.with_suffix(".txt").exists()]
    return captioned[: len(captioned) - len(captioned) % batch_size]


def _image(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        width, height = image.size
    return {
        "path": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "width": width,
        "height": height,
        "caption": path.with_suffix(".txt").read_text().strip(),
    }
