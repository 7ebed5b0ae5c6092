"""A run as TensorBoard shows it: the metrics' rows as curves, the sample images as pictures.

The event files are written here and now rather than by a thread, so that all that a state comes
after is on the disk before it: a run that is killed leaves no gap.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

# The curve that each number of a row belongs to.
_TAGS = {
    "loss": "train/loss",
    "lr": "train/learning_rate",
    "grad_norm": "train/gradient_norm",
    "images_per_second": "train/images_per_second",
    "memory_bytes": "train/memory_bytes",
    "validation_loss": "validation/loss",
    "base_validation_loss": "validation/base_loss",
    "prior_drift": "validation/prior_drift",
}


class TensorBoardLog:
    """Event files in a folder, one more each time a run goes on."""

    def __init__(self, folder: Path, *, resumed_at: int | None = None) -> None:
        """Open a new event file.

        Args:
            folder: of this run alone; made if need be.
            resumed_at: step of the state that the run goes on from; None when it begins. What
                earlier files tell of later steps is hidden, as is all of it when the run begins.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # The library's own name ends in whole seconds, and would write over one just made.
        # TensorBoard reads files in the order of their names.
        self._file = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        self._write(
            0 if resumed_at is None else resumed_at + 1,
            session_log=SessionLog(status=SessionLog.START),
        )
        self._file.flush()

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of metrics, see `events`; a number that was not measured is left out."""
        for row in rows:
            values = [
                Summary.Value(tag=tag, simple_value=row[name])
                for name, tag in _TAGS.items()
                if row.get(name) is not None
            ]
            if values:
                self._write(row["step"], summary=Summary(value=values))
        self._file.flush()

    def sample(self, step: int, prompt: str, path: Path) -> None:
        """Add a sample image, a file in a format that TensorBoard shows: PNG, JPEG or GIF."""
        with Image.open(path) as image:
            width, height, channels = *image.size, len(image.getbands())
        picture = Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=path.read_bytes()
        )
        # A slash would begin a group of its own.
        tag = f"samples/{prompt.replace('/', ' ')}"
        self._write(step, summary=Summary(value=[Summary.Value(tag=tag, image=picture)]))
        self._file.flush()

    def close(self) -> None:
        """Write what is left; nothing may be added after."""
        self._file.close()

    def _write(self, step: int, **what: Any) -> None:
        self._file.write_event(Event(wall_time=time.time(), step=step, **what))


class TensorBoardListener:
    """Turns a trainer's events into a `TensorBoardLog`, opened when the first row comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log: TensorBoardLog | None = None

    def __call__(self, type_: str, fields: Mapping[str, Any]) -> None:
        """Hear one event, see `events`."""
        if type_ == "metrics":
            rows = fields["rows"]
            if self._log is None:
                # A run that begins tells of step 0; one that goes on, of the step after its state,
                # or of a checkpoint that was not made, whose step was told before.
                first = rows[0]["step"]
                told = rows[0]["loss"] is None
                resumed_at = None if first == 0 else first if told else first - 1
                self._log = TensorBoardLog(self._folder, resumed_at=resumed_at)
            self._log.rows(rows)
        elif type_ == "sample" and self._log is not None:
            self._log.sample(fields["step"], fields["prompt"], Path(fields["path"]))

    def close(self) -> None:
        """Hear no more."""
        if self._log is not None:
            self._log.close()
