"""`lorawright demo`: the main job once, with real parts, as a client would do it.

Two styles are learnt from the example datasets, and the same prompts with the same seeds are drawn
without them, with each, and with both.
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.errors import CommandError
from app.cli.options import DataDir

if TYPE_CHECKING:
    from app.cli.steps import Caller


@dataclass(frozen=True)
class Style:
    """An example dataset and how it is trained here."""

    name: str
    folder: str
    trigger: str


INK = Style("ink", "ink-style", "inkstyle")
RISO = Style("riso", "riso-style", "risostyle")
STYLES = (INK, RISO)
# Subjects that are in neither dataset, and how many of them the sheet shows.
PROMPTS_FILE = "holdout_prompts.json"
COLUMNS = 9
SEED = 20
# The small base loses many a subject behind a trigger word that comes first, so here it comes last.
CAPTION_TEMPLATE = "{caption}, {trigger}"
# Weights of (ink, riso) in each row.
ROWS = ((0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.0, 1.0), (0.7, 0.7))


@dataclass
class Report:
    """What report.json holds."""

    seconds: dict[str, float] = field(default_factory=dict)
    styles: dict[str, dict[str, Any]] = field(default_factory=dict)
    subjects: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure a stage."""
        began = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - began, 2)


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo"),
    examples: Annotated[Path, typer.Option(help="Folder of the example datasets.")] = Path(
        "examples"
    ),
    port: Annotated[int, typer.Option(help="Port of the API.", min=1, max=65535)] = 8000,
    data_dir: DataDir = Path(".lorawright"),
) -> None:
    """Run the main job: two example styles to LoRAs, and LoRAs to one sheet of pictures."""
    from rich.console import Console

    from app.cli.progress import JobProgress
    from app.cli.steps import Caller
    from app.cli.target import connect

    if not (examples / PROMPTS_FILE).exists():
        raise CommandError(
            f"{examples} has no example datasets; run this where Lorawright's source is, "
            "or name their folder with --examples"
        )
    console = Console(highlight=False)
    report = Report()
    output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with _running_stack(data_dir, port, report, console.print) as started_here:
        with connect(None, None, data_dir) as client, JobProgress(console) as progress:
            caller = Caller(client, progress)
            for style in STYLES:
                _learn(caller, style, examples, output, report)
            with report.timed("generate"):
                _draw(caller, held_out_subjects(examples), output, report)
            base = client.url
        report.seconds["total"] = round(time.monotonic() - began, 2)
        _write_report(output, base, report)
        console.print(f"Done in {report.seconds['total']:.0f} s. See {output / 'sheet.png'}")
        for style in STYLES:
            console.print(f"  {output / style.name}.safetensors  {_loss_line(report, style)}")
        console.print(f"  {output / 'report.json'}")
        console.print(f"The console: {base}/", soft_wrap=True)
        if started_here:
            console.print("The stack is stopped now; `make up` starts it again on the same data.")


@contextlib.contextmanager
def _running_stack(data_dir: Path, port: int, report: Report, say: Any) -> Iterator[bool]:
    """The stack that runs on the folder, or one of our own for the length of the block."""
    from app.cli.stack.child import Child, ChildSpec
    from app.cli.stack.state import is_running, load_state

    if is_running(data_dir):
        yield False
        return

    def ready() -> bool:
        state = load_state(data_dir)
        return state is not None and state.ready and state.pid == stack.pid

    logs = data_dir / "logs"
    data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    logs.mkdir(mode=0o700, exist_ok=True)
    up = ["up", "--data-dir", str(data_dir), "--port", str(port)]
    stack = Child(
        ChildSpec(
            name="stack",
            command=[sys.executable, "-m", "app.cli.main", *up],
            environment=os.environ,
            ready=ready,
            ready_seconds=240,
            stop_seconds=60,
        ),
        logs / "up.log",
    )
    say(f"Starting the stack in {data_dir} …")
    try:
        with report.timed("start"):
            stack.start()
            stack.wait_ready()
        say(f"The stack is up after {report.seconds['start']:.1f} s.")
        yield True
    finally:
        stack.stop()


def _learn(caller: "Caller", style: Style, examples: Path, output: Path, report: Report) -> None:
    """Upload, caption, train and download one style."""
    from app.cli import steps

    with tempfile.TemporaryDirectory() as scratch, report.timed(f"{style.name} upload"):
        archive = Path(scratch) / f"{style.folder}.zip"
        # Some pictures have a caption by hand beside them; the captioner writes the others.
        steps.zip_folder(examples / style.folder, archive, captions=True)
        dataset, _ = steps.upload_dataset(
            caller,
            f"{style.name}: upload",
            archive,
            name=f"{style.name} demo",
            task="style",
            trigger=style.trigger,
            caption_template=CAPTION_TEMPLATE,
        )
    with report.timed(f"{style.name} caption"):
        captioning = steps.caption(caller, f"{style.name}: caption", dataset["id"])
    with report.timed(f"{style.name} train"):
        training = steps.train(
            caller,
            f"{style.name}: train",
            {
                "dataset": dataset["id"],
                "name": f"{style.name} demo",
                "params": {"seed": SEED},
            },
        )
    caller.client.download(
        f"/v1/loras/{training['lora']}/download", output / f"{style.name}.safetensors"
    )
    report.styles[style.name] = {
        "dataset": dataset["id"],
        "images": dataset["image_count"],
        "captioning": captioning["id"],
        "training": training["id"],
        "lora": training["lora"],
        **steps.losses(caller.client, training["id"]),
    }


def held_out_subjects(examples: Path) -> list[str]:
    """What to draw: names that no example picture has."""
    prompts: list[str] = json.loads((examples / PROMPTS_FILE).read_text())["prompts"]
    return prompts[:COLUMNS]


def _draw(caller: "Caller", subjects: list[str], output: Path, report: Report) -> None:
    """Generate every row and lay the sheet out."""
    from app.sheet import SheetRow, draw_sheet

    client, progress = caller.client, caller.progress
    # All are submitted first, so that the worker never waits for us.
    generations = [
        [client.post("/generations", _request(subject, weights, report)) for subject in subjects]
        for weights in ROWS
    ]
    total, done = len(ROWS) * len(subjects), 0
    rows: list[SheetRow] = []
    with tempfile.TemporaryDirectory() as scratch:
        for weights, row in zip(ROWS, generations, strict=True):
            pictures: list[Path] = []
            for job in row:
                ended = client.wait(f"/generations/{job['id']}", lambda _: None)
                picture = Path(scratch) / f"{job['id']}.png"
                client.download(ended["images"][0]["url"], picture)
                pictures.append(picture)
                done += 1
                progress.count("draw", done, total)
            rows.append(SheetRow(_label(weights), pictures))
            report.rows.append(
                {"label": _label(weights), "generations": [job["id"] for job in row]}
            )
        report.subjects = subjects
        title = f"The same prompts and seed in every row: {prompt_for('…')}"
        draw_sheet(title, subjects, rows).save(output / "sheet.png")


def prompt_for(subject: str) -> str:
    """The prompt, which carries both trigger words in every row, so that only the LoRAs differ."""
    return f"{subject}, {' '.join(style.trigger for style in STYLES)}"


def _request(subject: str, weights: tuple[float, float], report: Report) -> dict[str, Any]:
    return {
        "prompt": prompt_for(subject),
        "seed": SEED,
        "loras": [
            {"lora": report.styles[style.name]["lora"], "weight": weight}
            for style, weight in zip(STYLES, weights, strict=True)
            if weight
        ],
    }


def _label(weights: tuple[float, float]) -> str:
    parts = [
        f"{style.name} {weight}" for style, weight in zip(STYLES, weights, strict=True) if weight
    ]
    return "\n+ ".join(parts) or "base model"


def _write_report(output: Path, url: str, report: Report) -> None:
    content = {
        "url": url,
        "seconds": report.seconds,
        "styles": report.styles,
        "subjects": report.subjects,
        "seed": SEED,
        "rows": report.rows,
    }
    (output / "report.json").write_text(json.dumps(content, indent=2) + "\n")


def _loss_line(report: Report, style: Style) -> str:
    first, last = (
        report.styles[style.name]["validation_loss_first"],
        report.styles[style.name]["validation_loss_last"],
    )
    if first is None or last is None:
        return "no validation loss"
    return f"validation loss {first:.4f} → {last:.4f}"
