"""Show a job while it runs: a bar on a terminal, a line now and then anywhere else."""

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

# Elsewhere than on a terminal, a line at most for each so many parts of the work.
PLAIN_LINES = 4


class JobProgress:
    """One line a job; hand `show(title)` to `Client.wait`. Use it in a `with` block."""

    def __init__(self, console: Console) -> None:
        """Nothing is drawn before the block is entered."""
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, str] = {}
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:<24}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=console,
            )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str) -> None:
        """A line of its own, above the bars."""
        self._console.print(text, markup=False, highlight=False)

    def count(self, title: str, done: int, total: int) -> None:
        """Show many small jobs as one."""
        status = "succeeded" if done == total else "running"
        progress = {"fraction": done / total, "step": done, "total_steps": total, "stage": title}
        self.update(title, {"status": status, "progress": progress})

    def update(self, title: str, job: dict[str, Any]) -> None:
        """Show a job as the API answers it."""
        progress = job.get("progress") or {}
        done = job["status"] == "succeeded"
        fraction = 1.0 if done else float(progress.get("fraction") or 0.0)
        note = _note(job["status"], progress)
        if self._bars is not None:
            if title not in self._tasks:
                self._tasks[title] = self._bars.add_task(title, total=1.0, note=note)
            self._bars.update(self._tasks[title], completed=fraction, note=note)
            return
        part = int(fraction * PLAIN_LINES)
        said = f"{job['status']} {progress.get('stage')} {part}"
        if self._said.get(title) != said:
            self._said[title] = said
            self.say(f"{title}: {note}, {fraction:.0%}")


def _note(status: str, progress: dict[str, Any]) -> str:
    if status != "running":
        return status
    stage = progress.get("stage") or status
    if progress.get("step") and progress.get("total_steps"):
        return f"{stage} {progress['step']}/{progress['total_steps']}"
    return str(stage)
