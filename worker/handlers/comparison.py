"""Comparison: every cell drawn, those that fit one batch together, and one sheet that shows all."""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from PIL import Image
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.comparisons.models import Comparison
from app.database import JsonObject
from app.errors import LeaseLost
from app.generations.batching import recipe
from app.sheet import SheetRow, draw_sheet
from app.storage import get_store
from worker.handlers import understanding
from worker.handlers.at_hand import remember
from worker.handlers.context import JobContext, Publish, Stopped
from worker.handlers.generation import (
    INPUT_IMAGES,
    STORE_THREADS,
    GenerationFailed,
    fetch_input,
    lora_spec,
    receipt,
    store_image,
)
from worker.handlers.models import base_model_entry, base_model_spec, pipelines
from worker.ml.base_models.errors import BaseModelUnavailable
from worker.ml.inference.errors import InferenceError
from worker.ml.inference.errors import Stopped as DrawingStopped
from worker.ml.inference.generate import GeneratedImage, Watch, generate_many
from worker.ml.inference.spec import GenerationSpec
from worker.patience import patiently
from worker.stages import stage
from worker.workspace import attempt_key

# The sheet's longer side stays under this many pixels, whatever its pictures have.
SHEET_PX = 8192
# Small pictures are shown larger, with hard pixels.
ENLARGE_UNDER_PX = 160


def run(context: JobContext) -> Publish:
    """Draw the grid, store each picture under this attempt, publish all together."""
    detail = patiently(lambda session: session.get_one(Comparison, context.claim.job_id))
    cells, axes = list(detail.cells), list(detail.axes)
    understanding.check(detail.request)
    # Outside the transaction: its files may first have to come to this machine.
    base_model = base_model_spec(base_model_entry(detail.base_model))
    context.progress(0.0, stage="load")
    inputs = {
        name: str(fetch_input(context.folder / name, cells[0]["request"][name]))
        for name in INPUT_IMAGES
        if cells[0]["request"].get(name) is not None
    }
    specs = [
        GenerationSpec.model_validate(
            {name: value for name, value in cell["request"].items() if name not in INPUT_IMAGES}
            | inputs
            | {
                "seeds": (cell["request"]["seed"],),
                "loras": tuple(lora_spec(lora) for lora in cell["loras"]),
                "base_model": base_model,
            },
            extra="ignore",
        )
        for cell in cells
    ]
    try:
        with stage("load"):
            handle = pipelines().get(base_model)
    except BaseModelUnavailable as error:
        raise GenerationFailed(error.code, str(error), retryable=True) from error
    remember([recipe(cell["loras"]) for cell in cells])
    drawn: dict[int, GeneratedImage] = {}
    watches = _watches(context, len(cells))
    for number, outcome in generate_many(handle, specs, watches):
        if isinstance(outcome, DrawingStopped):
            context.check()
            raise Stopped(context.lease.stop_reason)
        if isinstance(outcome, InferenceError):
            named = ", ".join(cells[number]["labels"])
            raise GenerationFailed(outcome.code, f"{named}: {outcome}") from outcome
        drawn[number] = outcome.images[0]
    context.progress(1.0, stage="store")

    def store(number: int) -> JsonObject:
        request = cells[number]["request"]
        made = receipt(specs[number], request, handle, drawn[number].seed)
        key = attempt_key(context.claim, f"{number}.{request['format']}")
        stored = store_image(key, drawn[number], request["format"], made)
        packed = made.model_dump(mode="json")
        return {"index": number, "format": request["format"], "receipt": packed, **asdict(stored)}

    with stage("upload"), ThreadPoolExecutor(STORE_THREADS) as pool:
        images = list(pool.map(store, range(len(cells))))
    sheet = _sheet(context.folder, cells, axes, [drawn[number] for number in range(len(cells))])
    sheet_key = attempt_key(context.claim, "sheet.png")
    get_store().put_file(sheet_key, sheet, "image/png")
    context.check()

    def publish(session: Session) -> None:
        session.execute(
            update(Comparison)
            .where(Comparison.id == context.claim.job_id)
            .values(images=images, sheet_key=sheet_key)
        )

    return publish


def _watches(context: JobContext, count: int) -> list[Watch]:
    """One for each cell; the job is as far as they are on average."""
    fractions = [0.0] * count

    def heard(number: int, fraction: float) -> None:
        fractions[number] = fraction
        try:
            context.progress(
                sum(fractions) / count,
                stage="denoise",
                step=sum(each == 1.0 for each in fractions),
                total_steps=count,
            )
        except LeaseLost:
            context.lease.lose()

    return [
        Watch(
            lambda fraction, _step, _total, number=number: heard(number, fraction),  # type: ignore[misc]
            context.lease.should_stop,
        )
        for number in range(count)
    ]


def _sheet(
    folder: Path,
    cells: Sequence[JsonObject],
    axes: Sequence[JsonObject],
    drawn: Sequence[GeneratedImage],
) -> Path:
    """The labelled sheet: the first axis runs down, the second across, others part blocks."""
    counts = [len(axis["values"]) for axis in axes] + [1] * (2 - len(axes))
    down, across, *others = counts
    paths = _shown(folder, drawn, columns=across, rows=len(cells) // across)

    def number_of(row: int, column: int, rest: Sequence[int]) -> int:
        number = row * across + column
        for place, size in zip(rest, others, strict=True):
            number = number * size + place
        return number

    rows = []
    for rest in itertools.product(*(range(size) for size in others)):
        for row in range(down):
            first = cells[number_of(row, 0, rest)]["labels"]
            label = "\n".join([first[0], *first[2:]])
            pictures = [paths[number_of(row, column, rest)] for column in range(across)]
            rows.append(SheetRow(label, pictures))
    columns = [
        cells[number_of(0, column, [0] * len(others))]["labels"][1] if len(axes) > 1 else ""
        for column in range(across)
    ]
    scale = 2 if max(drawn[0].width, drawn[0].height) <= ENLARGE_UNDER_PX else 1
    title = cells[0]["request"]["prompt"][:120]
    if any(axis["name"] == "prompt" for axis in axes):
        title = " × ".join(axis["name"] for axis in axes)
    target = folder / "sheet.png"
    draw_sheet(title, columns, rows, scale=scale).save(target)
    return target


def _shown(folder: Path, drawn: Sequence[GeneratedImage], *, columns: int, rows: int) -> list[Path]:
    """The pictures as files, made smaller where the sheet would be too large."""
    most = max(SHEET_PX // columns, 64), max(SHEET_PX // rows, 64)
    paths = []
    for number, image in enumerate(drawn):
        picture = image.image.copy()
        picture.thumbnail(most, Image.Resampling.LANCZOS)
        path = folder / f"shown-{number}.png"
        picture.save(path)
        paths.append(path)
    return paths
