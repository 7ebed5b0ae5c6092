"""What a tool did to each module, and how far the result is from what it was made of."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Told how many modules are done, of how many; it may raise to stop the tool.
Tell = Callable[[int, int], None]


def tell_nobody(done: int, total: int) -> None:
    """For whoever does not watch."""


@dataclass(frozen=True)
class ModuleOutcome:
    """One module of a result.

    Attributes:
        rank: of the result.
        norm: ‖ΔW‖_F that was asked for.
        off: ‖ΔW - ΔW'‖_F of the matrices as the file holds them, rounding included.
    """

    rank: int
    norm: float
    off: float

    @property
    def error(self) -> float:
        """‖ΔW - ΔW'‖_F / ‖ΔW‖_F; 0 of a change that is nothing and stays so."""
        return 0.0 if self.off == 0 else self.off / max(self.norm, math.ulp(0.0))


@dataclass(frozen=True)
class ToolReport:
    """All modules by canonical path, and notes in plain words."""

    modules: dict[str, ModuleOutcome]
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """Of all modules together: √Σ‖ΔW - ΔW'‖² / √Σ‖ΔW‖²."""
        off = math.hypot(*(module.off for module in self.modules.values()))
        norm = math.hypot(*(module.norm for module in self.modules.values()))
        return 0.0 if off == 0 else off / max(norm, math.ulp(0.0))

    def as_json(self) -> dict[str, Any]:
        """`error` of all, `ranks` as they occur, and `modules` with rank and error of each."""
        ranks = [module.rank for module in self.modules.values()]
        return {
            "error": self.error,
            "ranks": {"min": min(ranks), "max": max(ranks)} if ranks else None,
            "notes": list(self.notes),
            "modules": {
                path: {"rank": module.rank, "error": module.error}
                for path, module in sorted(self.modules.items())
            },
        }
