"""What is given up for memory, one thing after another: time first, exactness of the base last."""

from dataclasses import dataclass, replace
from typing import Literal

Storage = Literal["full", "fp8", "int8"]


@dataclass(frozen=True)
class MemoryPlan:
    """How a step is made to fit.

    Attributes:
        checkpointing: whether activations are computed twice instead of kept.
        parts: into how many a batch is cut, whose gradients are added up.
        storage: of the frozen weights.
    """

    checkpointing: bool = False
    parts: int = 1
    storage: Storage = "full"

    def next_rung(self, batch_size: int, smaller: Storage) -> tuple["MemoryPlan", str] | None:
        """The next plan that needs less, and why in words; None: there is nothing left to give.

        Args:
            batch_size: pictures a device sees at once, which cannot be cut below one.
            smaller: how frozen weights are kept when it comes to that.
        """
        if not self.checkpointing:
            return replace(self, checkpointing=True), "activations are computed twice, not kept"
        if self.parts < batch_size:
            parts = min(self.parts * 2, batch_size)
            size = -(-batch_size // parts)
            return replace(self, parts=parts), f"{size} of {batch_size} pictures at once"
        if self.storage == "full":
            return replace(self, storage=smaller), f"the frozen weights are kept in {smaller}"
        return None
