"""Our trainer beside the straight loop on the CPU: images a second and peak memory, in one run.

    python -m bench.training [--steps N] [--rounds N] [--batch-size N] [--precision bf16|no]

Three programs train the same LoRA on the same pictures by turns: ours; the straight loop, which
encodes in every step; the straight loop with latents and embeddings made before. Loading and
preparation are left out: time runs from the end of the last warm-up step to the end of the last
step. Ours tells its steps ten at a time, so warm-up and steps are multiples of ten.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil

from bench.machine import processor
from bench.settings import REPOSITORY, Settings, example_pictures

WARM_UP = 10
# How our trainer tells its steps.
TOGETHER = 10
STRAIGHT, CACHED, OURS = "straight", "straight, cached inputs", "ours"
AIMS = {STRAIGHT: 2.0, CACHED: 1.0}


@dataclass(frozen=True)
class Run:
    """One program's run.

    Attributes:
        images_per_cpu_second: the same by the processor's time, which neighbours do not stretch.
        peak_bytes: of the whole process from its start, as the system counts it.
    """

    images_per_second: float
    images_per_cpu_second: float
    peak_bytes: int


def main() -> None:
    """Measure and print."""
    args = _arguments()
    steps = -(-args.steps // TOGETHER) * TOGETHER
    precision: Literal["bf16", "no"] = args.precision or _chosen_precision()
    settings = Settings(
        pictures=example_pictures(args.batch_size),
        batch_size=args.batch_size,
        rank=args.rank,
        steps=WARM_UP + steps,
        precision=precision,
    )
    with tempfile.TemporaryDirectory(prefix="lorawright-bench-") as folder:
        programs = _prepare(settings, Path(folder), args.threads)
        runs: dict[str, list[Run]] = {name: [] for name in programs}
        for number in range(args.rounds):
            # By turns, and each round in another order, so that a slow minute hits all alike.
            names = list(programs)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                runs[name].append(programs[name]())
                print(f"round {number + 1}: {name}: {_describe(runs[name][-1])}", flush=True)
    report = _report(settings, runs, args)
    _print(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def _prepare(settings: Settings, folder: Path, threads: int) -> dict[str, Callable[[], Run]]:
    """Fill the caches, and say how each program is run."""
    told = str(settings.write(folder / "settings.json"))
    spec = folder / "spec.json"
    spec.write_text(json.dumps(settings.spec()))
    straight = [sys.executable, "-m", "bench.straight_loop", told]
    cache = str(folder / "cached.pt")
    ours = [sys.executable, "-m", "worker.ml.training", str(spec), f"--cache={folder / 'cache'}"]

    def run(command: list[str]) -> Run:
        return _run(command, settings, threads)

    def run_ours() -> Run:
        with tempfile.TemporaryDirectory(dir=folder) as output:
            return run([*ours, f"--output={output}"])

    quiet = subprocess.DEVNULL
    subprocess.run([*straight, "--make-cache", cache], check=True, cwd=REPOSITORY, stderr=quiet)
    run_ours()
    return {
        STRAIGHT: lambda: run(straight),
        CACHED: lambda: run([*straight, "--cached", cache]),
        OURS: run_ours,
    }


def _run(command: list[str], settings: Settings, threads: int) -> Run:
    """Run a program and watch when its steps end.

    Raises:
        RuntimeError: it failed, or did not tell of every step.
    """
    ended: dict[int, tuple[float, float]] = {}
    # Errors go to a file: a pipe that nobody reads would fill and stop the program.
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"},
        )
        assert process.stdout is not None
        watched = psutil.Process(process.pid)
        with process.stdout:
            for line in process.stdout:
                used = watched.cpu_times()
                for step in _steps(json.loads(line)):
                    ended.setdefault(step, (time.monotonic(), used.user + used.system))
        # Not Popen.wait, which throws away what the process used.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        if process.returncode != 0 or settings.steps not in ended:
            told = errors.read()
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{told}")
    seconds, cpu_seconds = (
        after - before for before, after in zip(ended[WARM_UP], ended[settings.steps], strict=True)
    )
    images = (settings.steps - WARM_UP) * settings.batch_size
    return Run(images / seconds, images / cpu_seconds, usage.ru_maxrss * 1024)


def _steps(event: dict[str, Any]) -> list[int]:
    """The steps that an event says are done."""
    if event.get("type") == "metrics":
        return [row["step"] for row in event["rows"] if row["loss"] is not None]
    return [event["step"]] if "type" not in event else []


def _report(
    settings: Settings, runs: dict[str, list[Run]], args: argparse.Namespace
) -> dict[str, Any]:
    medians: dict[str, dict[str, Any]] = {
        name: {
            "images_per_second": statistics.median(run.images_per_second for run in found),
            "images_per_cpu_second": statistics.median(run.images_per_cpu_second for run in found),
            "peak_bytes": int(statistics.median(run.peak_bytes for run in found)),
            "rounds": [run.images_per_second for run in found],
        }
        for name, found in runs.items()
    }
    return {
        "settings": {
            "base": Path(settings.base).name,
            "pictures": len(settings.pictures),
            "resolution": settings.resolution,
            "batch_size": settings.batch_size,
            "rank": settings.rank,
            "target": "attention",
            "precision": settings.precision,
            "steps": settings.steps - WARM_UP,
            "warm_up": WARM_UP,
            "threads": args.threads,
            "rounds": args.rounds,
        },
        "machine": {"cpu": processor(), "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "diffusers", "peft", "accelerate")},
        "results": medians,
        # Ours over each other, by the clock and by the processor's time.
        "ratios": {
            name: {
                unit: medians[OURS][unit] / medians[name][unit]
                for unit in ("images_per_second", "images_per_cpu_second", "peak_bytes")
            }
            for name in AIMS
        },
    }


def _print(report: dict[str, Any]) -> None:
    told = report["settings"]
    print(
        f"\n{told['base']}, {told['resolution']} px, batch {told['batch_size']}, rank "
        f"{told['rank']}, attention, precision {told['precision']}, {told['threads']} thread(s), "
        f"{told['steps']} steps, median of {told['rounds']}; {report['machine']['cpu']}"
    )
    print(
        f"{'':26}{'images/s':>10}{'ours is':>10}{'images/CPU s':>14}{'ours is':>10}"
        f"{'aim':>8}{'peak MiB':>10}"
    )
    for name, found in report["results"].items():
        ratios = report["ratios"].get(name)
        clock = f"{ratios['images_per_second']:.2f}×" if ratios else ""
        processor = f"{ratios['images_per_cpu_second']:.2f}×" if ratios else ""
        aim = f"≥ {AIMS[name]:.1f}×" if ratios else ""
        print(
            f"{name:26}{found['images_per_second']:10.2f}{clock:>10}"
            f"{found['images_per_cpu_second']:14.2f}{processor:>10}{aim:>8}"
            f"{found['peak_bytes'] / 2**20:10.0f}"
        )


def _describe(run: Run) -> str:
    return (
        f"{run.images_per_second:.2f} images/s, {run.images_per_cpu_second:.2f} a CPU second, "
        f"{run.peak_bytes / 2**20:.0f} MiB"
    )


def _chosen_precision() -> Literal["bf16", "no"]:
    """What the trainer chooses on this CPU."""
    from worker.ml.training.memory.plan import cpu_computes_bfloat16

    return "bf16" if cpu_computes_bfloat16() else "no"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=60, help="measured steps of each run")
    parser.add_argument("--rounds", type=int, default=3)
    # As the catalog trains this base.
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--precision", choices=("bf16", "no"), help="left out: what the trainer chooses here"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
