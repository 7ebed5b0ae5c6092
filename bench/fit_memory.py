"""Fits the coefficients of worker/ml/training/memory/footprint.py on what bench/memory.py measured.

    python -m bench.fit_memory [FILE]

Prints the table as it stands in the code, and its largest error. Least squares of relative errors,
with no coefficient below zero, so that more of anything never needs less.
"""

import json
import sys
from dataclasses import astuple
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench import sdxl
from bench.memory import RESULTS
from worker.ml.training.memory.footprint import SDXL, Coefficients

Point = dict[str, Any]
# Bytes of a trained number's gradient.
GRADIENT = 4


def main() -> None:
    """Fit and print."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    points: list[Point] = json.loads(file.read_text())["points"]
    worst, at_end = 0.0, 0.0
    for target, checkpointing, small in product(
        ("attention", "full"), (False, True), (False, True)
    ):
        part = [
            point
            for point in points
            if (point["target"], point["checkpointing"], point["storage"] != "full")
            == (target, checkpointing, small)
        ]
        # Of quantised weights another moment hides the end, which is as without them.
        found, error = _fit(part, at_end if small else None)
        at_end = found.per_latent_at_end
        worst = max(worst, error)
        numbers = ", ".join(f"{number:.5g}" for number in astuple(found))
        print(f'    ("{target}", {checkpointing}, {small}): Coefficients({numbers}),')
    print(f"largest error {worst:.2%} of {len(points)} points")


def _fit(points: list[Point], at_end: float | None) -> tuple[Coefficients, float]:
    """Coefficients, and the largest relative error.

    Which of its moments a point shows is found by turns.

    Args:
        at_end: the last coefficient where it is known.
    """
    # In the first guess, the half with most latents for each trained number begins backward.
    order = sorted(points, key=lambda point: -_latents(point) / point["trained"])
    early = order[: -(-len(order) // 2)]
    late: list[Point] = []
    while True:
        ends = [
            (point["step_bytes"] - GRADIENT * point["trained"]) / _latents(point) for point in late
        ]
        last = at_end if at_end is not None else sum(ends) / max(1, len(ends))
        begins = _least_squares(early)
        first, second, third, fourth = begins
        found = Coefficients(first, second, third, fourth, last)
        # A point far above what begins backward is of another moment.
        parted = [point for point in points if point["step_bytes"] > 1.02 * _begins(begins, point)]
        if parted == late:
            break
        late = parted
        early = [point for point in points if point not in late]
    errors = [
        found.step_bytes(*_counts(point), opened_bytes=SDXL.opened_bytes(point["storage"]))
        / point["step_bytes"]
        - 1
        for point in points
    ]
    return found, max(map(abs, errors))


def _begins(coefficients: list[float], point: Point) -> float:
    return sum(a * b for a, b in zip(coefficients, _features(point), strict=True))


def _counts(point: Point) -> tuple[int, int, int, int]:
    latents = _latents(point) // point["batch"]
    return point["trained"], point["batch"], latents, point["rank"]


def _least_squares(points: list[Point]) -> list[float]:
    wanted = torch.tensor([float(point["step_bytes"]) for point in points], dtype=torch.float64)
    features = torch.tensor([_features(point) for point in points], dtype=torch.float64)
    scaled = features / wanted[:, None]
    columns = list(range(features.shape[1]))
    while True:
        solved = torch.linalg.lstsq(scaled[:, columns], torch.ones_like(wanted)).solution
        if (solved >= 0).all():
            break
        columns.pop(int(solved.argmin()))
    found = torch.zeros(features.shape[1], dtype=torch.float64)
    found[columns] = solved
    return found.tolist()


def _features(point: Point) -> list[float]:
    latents = _latents(point)
    return [point["trained"], point["batch"], latents, latents * point["rank"]]


def _latents(point: Point) -> int:
    """Of all pictures together."""
    side = point["resolution"] // sdxl.VAE_SCALE_FACTOR
    return int(point["batch"] * side**2)


if __name__ == "__main__":
    main()
