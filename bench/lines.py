"""A measurement's lines: each a program's median of several turns, printed as it is found."""

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from bench.speeds import seconds

_GIB = 1024**3


@dataclass(frozen=True)
class Line:
    """What one program took; what does not apply, or failed, is None.

    Attributes:
        seconds: the median of its turns.
        share: the least time it could take, over that.
        peak_gib: reserved of a CUDA device's memory, weights included.
        error: why there are no figures.
    """

    section: str
    program: str
    seconds: float | None = None
    share: float | None = None
    images_per_second: float | None = None
    peak_gib: float | None = None
    error: str | None = None


class Lines:
    """All lines of one device."""

    def __init__(self, device: torch.device, rounds: int) -> None:
        """None yet.

        Args:
            rounds: turns that count; one more comes before them.
        """
        self.device = device
        self.rounds = rounds
        self.found: list[Line] = []

    def measure(
        self,
        section: str,
        program: str,
        work: Callable[[int], object],
        *,
        images: int | None = None,
        least_seconds: float | None = None,
    ) -> None:
        """Measure, keep and print one; what fails is told, and the next ones go on.

        Args:
            work: is given the number of its turn.
            images: how many a turn draws.
            least_seconds: of a turn, were the device at its best all the time.
        """
        self.clear()
        line = Line(section, program)
        try:
            taken = [
                seconds(self.device, lambda n=turn: work(n))  # type: ignore[misc]
                for turn in range(self.rounds + 1)
            ]
            median = statistics.median(taken[1:])
            line = replace(
                line,
                seconds=median,
                share=None if least_seconds is None else least_seconds / median,
                images_per_second=None if images is None else images / median,
            )
        # Memory that runs out, and compilers.
        except RuntimeError as error:
            line = replace(line, error=first_line(error))
        if self.device.type == "cuda":
            line = replace(line, peak_gib=torch.cuda.max_memory_reserved(self.device) / _GIB)
        self.found.append(line)
        print(_row(line), flush=True)

    def clear(self) -> None:
        """Give back what nobody holds, and begin a new peak."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def first_line(error: Exception) -> str:
    """What an error says first, and its kind."""
    told = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {told}"


HEAD = f"{'':28}{'':42}{'seconds':>10}{'of best':>9}{'images/s':>10}{'peak GiB':>10}"


def _row(line: Line) -> str:
    head = f"{line.section:28}{line.program:42}"
    if line.error is not None or line.seconds is None:
        return f"{head}  {line.error}"
    share = "" if line.share is None else f"{line.share:.1%}"
    rate = "" if line.images_per_second is None else f"{line.images_per_second:.3f}"
    peak = "" if line.peak_gib is None else f"{line.peak_gib:.2f}"
    return f"{head}{line.seconds:10.4f}{share:>9}{rate:>10}{peak:>10}"
