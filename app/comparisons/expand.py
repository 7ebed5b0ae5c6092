"""Axes to cells: what each picture of a comparison asks for, and how it is labelled."""

import itertools
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.comparisons.schemas import Axis, ComparisonCreate
from app.errors import FieldProblem, Invalid
from app.generations.schemas import GenerationCreate

# Fields of a request that a value takes the place of.
_FIELDS = {
    "prompt": "{}",
    "negative_prompt": "not: {}",
    "seed": "seed {}",
    "guidance_scale": "guidance {}",
    "steps": "{} steps",
    "scheduler": "{}",
}
_LABEL_CHARS = 80


@dataclass(frozen=True)
class Cell:
    """One picture: its value on each axis, as a person reads it, and the request."""

    labels: tuple[str, ...]
    request: GenerationCreate


def expand(request: ComparisonCreate, seed: int) -> list[Cell]:
    """Every combination, the last axis running fastest.

    Args:
        seed: of all cells, unless there is an axis of seeds.

    Raises:
        Invalid: an axis stands twice, or a value is none that the field takes; says which.
    """
    _check_axes(request)
    told = request.model_dump(exclude={"axes"}, exclude_unset=True) | {"seed": seed}
    cells = []
    places = [range(len(axis.values)) for axis in request.axes]
    for place in itertools.product(*places):
        fields: dict[str, Any] = {**told, "loras": list(told.get("loras", []))}
        for axis, number in zip(request.axes, place, strict=True):
            _apply(axis, axis.values[number], fields)
        # Weights last: they may be of a LoRA that another axis brings.
        for axis, number in zip(request.axes, place, strict=True):
            if axis.name == "weight":
                _weigh(axis, axis.values[number], fields)
        labels = tuple(
            label(axis, axis.values[number])
            for axis, number in zip(request.axes, place, strict=True)
        )
        cells.append(Cell(labels, _checked(request.axes, place, fields)))
    return cells


def label(axis: Axis, value: Any) -> str:
    """A value as it stands beside its row or above its column."""
    if axis.name == "weight":
        return f"{axis.lora or 'weight'} {value}"
    if axis.name in ("lora", "checkpoint"):
        return "no LoRA" if value is None else str(value)
    text = _FIELDS[axis.name].format(value)
    return text if len(text) <= _LABEL_CHARS else text[: _LABEL_CHARS - 1] + "…"


def _apply(axis: Axis, value: Any, fields: dict[str, Any]) -> None:
    if axis.name in _FIELDS:
        fields[axis.name] = value
    elif axis.name in ("lora", "checkpoint") and value is not None:
        fields["loras"] = [*fields["loras"], {"lora": value}]


def _weigh(axis: Axis, value: Any, fields: dict[str, Any]) -> None:
    fields["loras"] = [
        {**use, "weight": value} if axis.lora in (None, use["lora"]) else use
        for use in fields["loras"]
    ]


def _checked(axes: list[Axis], place: tuple[int, ...], fields: dict[str, Any]) -> GenerationCreate:
    try:
        return GenerationCreate.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        wrong = first["loc"][0] if first["loc"] else ""
        for position, (axis, number) in enumerate(zip(axes, place, strict=True)):
            named = axis.name if axis.name in _FIELDS else "loras"
            if named == wrong:
                pointer = f"/axes/{position}/values/{number}"
                detail = f"axes: {axis.values[number]!r} of {axis.name}: {first['msg']}"
                raise Invalid(detail, [FieldProblem(pointer, first["msg"])]) from error
        raise Invalid(str(first["msg"]), [FieldProblem(f"/{wrong}", first["msg"])]) from error


def _check_axes(request: ComparisonCreate) -> None:
    seen: set[tuple[str, str | None]] = set()
    brought: set[object] = {use.lora for use in request.loras}
    for axis in request.axes:
        if axis.name in ("lora", "checkpoint"):
            brought |= {value for value in axis.values if isinstance(value, str)}
    for position, axis in enumerate(request.axes):
        wrong = None
        if (axis.name, axis.lora) in seen:
            wrong = "name", f"{axis.name} stands twice"
        elif axis.lora is not None and axis.name != "weight":
            wrong = "lora", f"lora is for an axis of weights, not of {axis.name}"
        elif axis.name == "weight" and not brought:
            wrong = "name", "there is no LoRA whose weight could differ"
        elif axis.lora is not None and axis.lora not in brought:
            named = ", ".join(sorted(map(str, brought)))
            wrong = "lora", f"{axis.lora!r} is none of the LoRAs {named}"
        if wrong is not None:
            place, detail = wrong
            raise Invalid(f"axes: {detail}", [FieldProblem(f"/axes/{position}/{place}", detail)])
        seen.add((axis.name, axis.lora))
