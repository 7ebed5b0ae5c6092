"""Figures as people read them."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from markupsafe import Markup

from app.database import JsonObject
from app.datasets.schemas import DatasetRead
from app.generations.schemas import GenerationRead
from app.trainings.presets import PRESETS

TASKS = {name: preset.title for name, preset in PRESETS.items()}
KINDS = {
    "ingest": "Intake",
    "captioning": "Captioning",
    "training": "Training",
    "generation": "Pictures",
    "comparison": "Comparison",
    "lora_tool": "LoRA tool",
}


def bytes_said(count: float) -> str:
    """1536 → 1.5 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float | None) -> str:
    """3725 → 1 h 2 min."""
    if seconds is None:
        return "not known yet"
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def figure(value: float | None, digits: int = 4) -> str:
    """Four digits that matter; a dash for nothing."""
    return "–" if value is None else f"{value:.{digits}g}"


def moment(at: datetime | None) -> Markup:
    """A time, which a script then says in the reader's own zone."""
    if at is None:
        return Markup("–")
    told = at.isoformat().replace("+00:00", "Z")
    shown = at.strftime("%Y-%m-%d %H:%M UTC")
    return Markup('<time datetime="{}">{}</time>').format(told, shown)


def range_of_task(dataset: DatasetRead) -> str:
    """How many pictures the dataset's task wants."""
    preset = PRESETS[dataset.task]
    if preset.images_to is None:
        return f"{preset.images_from} or more"
    return f"{preset.images_from}–{preset.images_to}"


def pretty(value: Any) -> str:
    """JSON on lines of its own."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def settings_of(generation: GenerationRead) -> JsonObject:
    """What the playground's form is filled with to make it again."""
    uses = [{"lora": use.lora, "weight": use.weight} for use in generation.loras]
    return {**generation.request, "loras": uses}


FILTERS: dict[str, Callable[..., Any]] = {
    "bytes": bytes_said,
    "duration": duration,
    "figure": figure,
    "moment": moment,
    "range_of_task": range_of_task,
    "pretty": pretty,
    "settings_of": settings_of,
    "task_title": lambda task: TASKS.get(task, task),
    "kind_title": lambda kind: KINDS.get(kind, kind),
}
