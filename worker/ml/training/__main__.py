"""The trainer as a program: a spec in, JSON lines and LoRA files out.

    python -m worker.ml.training SPEC.json --output DIR [--cache DIR] [--resume]
    python -m worker.ml.training --config dataset.toml --base-model BASE --output DIR …
    python -m worker.ml.training --images FOLDER --base-model BASE --output DIR …

Standard output carries events only, one JSON object a line (see `events`). In DIR: `checkpoints/`
(LoRA files by step), `samples/`, `states/` (what --resume goes on from).

Exit codes:
    0   done
    64  the spec is wrong
    65  an input is wrong: a picture does not decode
    70  the training failed: the loss is not finite, memory ran out, …
    75  stopped by SIGTERM (or by the end of standard input, with --stop-on-stdin-eof); the state
        is saved, and --resume goes on from it
"""

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from worker.ml.training.errors import (
    EXIT_FAILED,
    EXIT_STOPPED,
    BaseModelUnsuitable,
    OutOfMemory,
    Stopped,
    TrainingError,
)
from worker.ml.training.events import Events
from worker.ml.training.shell import command_line
from worker.ml.training.spec import fingerprint, read_spec


def main() -> int:
    """Run one training; the exit code."""
    args = _arguments()
    # Of several processes the first one speaks for all.
    main_process = os.environ.get("RANK", "0") == "0"
    events = Events.on_stdout() if main_process else Events.nowhere()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if args.stop_on_stdin_eof:
        threading.Thread(target=_watch_stdin, args=(stop,), daemon=True).start()
    try:
        with _tensorboard(args.tensorboard, events):
            _train(args, events, stop)
    except Stopped as stopped:
        events.send("stopped", step=stopped.step)
        return EXIT_STOPPED
    except TrainingError as error:
        events.send("error", code=error.code, message=str(error), retryable=error.retryable)
        return error.exit_code
    except Exception as error:  # The program's edge: whatever happened, it is told and recorded.
        traceback.print_exc()
        message = f"an unexpected {type(error).__name__}: {error}"
        events.send("error", code="trainer_crashed", message=message, retryable=True)
        return EXIT_FAILED
    return 0


@contextmanager
def _tensorboard(folder: Path | None, events: Events) -> Iterator[None]:
    if folder is None:
        yield
        return
    from worker.ml.training.watching.tensorboard import TensorBoardListener

    with closing(TensorBoardListener(folder)) as listener:
        events.hear(listener)
        yield


def _train(args: argparse.Namespace, events: Events, stop: threading.Event) -> None:
    spec = read_spec(command_line.spec_file(args, events))
    # Imported late: a bad spec is told at once, and torch takes seconds.
    import torch

    from worker.ml.base_models.errors import BaseModelUnavailable
    from worker.ml.training.data.prepare import count_steps, prepare
    from worker.ml.training.learning.optimisers import require_packages
    from worker.ml.training.loop import Training
    from worker.ml.training.memory.host_memory import keep_freed_memory
    from worker.ml.training.memory.plan import footprint_of, make_plan
    from worker.ml.training.parallel import joined_group
    from worker.ml.training.watching.advice import advice, describe

    def pause() -> None:
        if stop.is_set():
            raise Stopped(None)

    require_packages(spec.params)
    _quiet_libraries()
    torch.manual_seed(spec.seed)
    plan = make_plan(
        spec.params, spec.base_model.vae_scale_factor, lambda: footprint_of(spec.base_model)
    )
    if plan.device.type == "cpu":
        keep_freed_memory()
    else:
        # TensorFloat-32 for what stays in float32, such as the VAE.
        torch.set_float32_matmul_precision("high")
    for reason in plan.reasons:
        events.log(reason)
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        with joined_group() as group:
            cache = args.cache or args.output / "cache"
            steps = count_steps(spec, group)
            events.log(describe(steps, spec.params, group.size))
            for warning in advice(spec, steps):
                events.log(warning, "warning")
            prepared = prepare(spec, plan, steps, cache, events, group, pause)
            Training(
                spec=spec,
                # Of what it says, not of where its files lie: another worker lays them elsewhere.
                spec_sha256=fingerprint(spec),
                plan=plan,
                prepared=prepared,
                output=args.output,
                events=events,
                group=group,
                should_stop=stop.is_set,
                state_every_seconds=args.state_every_seconds,
            ).run(resume=args.resume)
    except BaseModelUnavailable as error:
        raise BaseModelUnsuitable(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"the device has too little memory to prepare: {error}") from error


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m worker.ml.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command_line.add_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="shared between trainings")
    parser.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="write curves and samples for TensorBoard"
    )
    parser.add_argument("--resume", action="store_true", help="go on from DIR's newest state")
    parser.add_argument("--state-every-seconds", type=float, default=120.0, metavar="N")
    parser.add_argument(
        "--stop-on-stdin-eof", action="store_true", help="stop when whoever started it is gone"
    )
    return parser.parse_args()


def _watch_stdin(stop: threading.Event) -> None:
    # Read past Python's buffering: a daemon thread inside sys.stdin would block the exit.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()


def _quiet_libraries() -> None:
    import warnings

    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="(diffusers|transformers|peft|torch)")


if __name__ == "__main__":
    sys.exit(main())
