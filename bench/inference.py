"""Our inference beside diffusers on the CPU, in one run: switching, a step, a batch of requests.

    python -m bench.inference [--rounds N] [--threads N] [--rank N] [--json FILE]

Everything happens in one process by turns; medians count. Where two programs draw, their pictures
are compared too, so that none is fast by drawing something else.
"""

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image

from bench.diffusers_peer import Peer
from bench.lora_files import make_files
from bench.machine import processor
from bench.settings import BASE
from worker.ml.base_models.device import choose_policy
from worker.ml.inference.bank import BankedLora
from worker.ml.inference.errors import InferenceError
from worker.ml.inference.generate import Watch, generate_many
from worker.ml.inference.pipelines import PipelineHandle, open_pipeline
from worker.ml.inference.spec import BaseModelSpec, GenerationSpec, LoraSpec

OURS, SWITCHED, KEPT = "ours", "diffusers, loaded each time", "diffusers, all kept loaded"
BASE_SPEC = BaseModelSpec(
    id="emoji-64", location=str(BASE), architecture="emoji-64", vae_scale_factor=4
)
PROMPTS = (
    "red apple",
    "blue car",
    "yellow star",
    "green tree",
    "smiling face",
    "brown dog",
    "white cloud",
    "purple heart",
)
AIMS = {"switch": 20.0, "step": 1.03, "requests": 2.0}


def main() -> None:
    """Measure and print."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    # diffusers remarks on every file without text encoders.
    diffusers_logging.set_verbosity_error()
    # peft remarks on every adapter after the first, which is what is wanted here.
    warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
    with tempfile.TemporaryDirectory(prefix="lorawright-bench-") as folder:
        report = measure(Path(folder), args)
    report["machine"] = {
        "processor": processor(),
        "threads": args.threads,
        "versions": {name: version(name) for name in ("torch", "diffusers", "peft")},
    }
    _print(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All figures of a run."""
    handle = open_pipeline(BASE_SPEC, choose_policy("cpu"))
    peer = Peer(BASE_SPEC.location, handle.policy)
    report: dict[str, Any] = {"rank": args.rank, "rounds": args.rounds}
    for name, encoders in (("unet", False), ("unet and text encoders", True)):
        own = folder / name.split()[-1]
        own.mkdir()
        loras = make_files(handle, own, count=12, rank=args.rank, encoders=encoders)
        report[f"switch, {name}"] = _switch(handle, peer, loras, args.rounds)
        if not encoders:
            report["step"] = _step(handle, peer, loras[:5], args.rounds)
            report["requests"] = _requests(handle, peer, loras, args)
        peer.pipeline.unload_lora_weights()
    return report


def _switch(
    handle: PipelineHandle, peer: Peer, loras: Sequence[LoraSpec], rounds: int
) -> dict[str, Any]:
    """Seconds to bring the base from one set of three to another; all files parsed."""
    sets = [[_weighed(lora, 0.5) for lora in loras[at : at + 3]] for at in range(0, 12, 3)]
    banked = [[(_banked(handle, lora), lora.weights) for lora in chosen] for chosen in sets]
    peer.parse(loras)
    programs: dict[str, Callable[[int], None]] = {
        OURS: lambda turn: _ignore(handle.bank.activate(banked[turn % 4])),
        SWITCHED: lambda turn: peer.switch(sets[turn % 4]),
    }
    seconds = _by_turns(programs, rounds)
    # Afterwards, as each of the switches above would throw the kept ones away.
    for chosen in sets:
        peer.choose(chosen)
    seconds |= _by_turns({KEPT: lambda turn: peer.choose(sets[turn % 4])}, rounds)
    modules = len(banked[0][0][0].lora.modules)
    return {"modules": modules, "seconds": seconds, "floor": _floor(handle, banked[0])}


def _step(
    handle: PipelineHandle, peer: Peer, loras: Sequence[LoraSpec], rounds: int
) -> dict[str, Any]:
    """Seconds of one guided UNet step at batch 1: bare, and with five LoRAs."""
    inputs = _unet_inputs()
    five = [(_banked(handle, _weighed(lora, 0.3)), 0.3) for lora in loras]
    peer.pipeline.unload_lora_weights()
    peer.parse(loras)
    peer.switch([_weighed(lora, 0.3) for lora in loras])
    seconds: dict[str, list[float]] = {"bare": [], "ours, five merged": [], "diffusers, five": []}
    with torch.no_grad():
        for _ in range(rounds * 4):
            for name, unet in (
                ("bare", handle.base.unet),
                ("ours, five merged", handle.base.unet),
                ("diffusers, five", peer.base.unet),
            ):
                handle.bank.activate(five if name.startswith("ours") else [])
                unet(**inputs)
                began = time.perf_counter()
                for _ in range(3):
                    output = unet(**inputs)[0]
                seconds[name].append((time.perf_counter() - began) / 3)
        handle.bank.activate(five)
        ours = handle.base.unet(**inputs)[0]
    handle.bank.activate([])
    return {
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "relative_difference": float((ours - output).norm() / output.norm()),
    }


def _requests(
    handle: PipelineHandle, peer: Peer, loras: Sequence[LoraSpec], args: argparse.Namespace
) -> dict[str, Any]:
    """Eight requests with eight sets of one to three LoRAs: images a second, and agreement."""
    specs = [
        GenerationSpec(
            prompt=prompt,
            width=64,
            height=64,
            steps=args.steps,
            guidance_scale=4.0,
            seeds=(number,),
            base_model=BASE_SPEC,
            loras=tuple(
                _weighed(loras[(number + place) % 12], 0.6 - 0.3 * place)
                for place in range(number % 3 + 1)
            ),
        )
        for number, prompt in enumerate(PROMPTS)
    ]
    peer.parse(loras)
    drawn: dict[str, list[Image.Image]] = {}

    def ours(_: int) -> None:
        drawn[OURS] = _draw(handle, specs)

    def switched(_: int) -> None:
        drawn[SWITCHED] = []
        for spec in specs:
            peer.switch(spec.loras)
            drawn[SWITCHED].append(peer.draw(spec))

    def kept(_: int) -> None:
        for spec in specs:
            peer.choose(spec.loras)
            peer.draw(spec)

    _draw(handle, specs)
    seconds = _by_turns({OURS: ours, SWITCHED: switched}, max(args.rounds // 2, 1))
    kept(0)
    seconds |= _by_turns({KEPT: kept}, max(args.rounds // 2, 1))
    differences = [
        np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max()
        for one, other in zip(drawn[OURS], drawn[SWITCHED], strict=True)
    ]
    return {
        "steps": args.steps,
        "images_per_second": {name: len(specs) / each for name, each in seconds.items()},
        "largest_pixel_difference": int(max(differences)),
    }


def _draw(handle: PipelineHandle, specs: Sequence[GenerationSpec]) -> list[Image.Image]:
    quiet = Watch(lambda *_: None, lambda: False)
    pictures: dict[int, Image.Image] = {}
    for number, outcome in generate_many(handle, specs, [quiet] * len(specs)):
        if isinstance(outcome, InferenceError):
            raise outcome
        pictures[number] = outcome.images[0].image
    return [pictures[number] for number in range(len(specs))]


def _floor(handle: PipelineHandle, wanted: Sequence[tuple[BankedLora, Any]]) -> dict[str, float]:
    """What a switch must do at least, and how long that takes at this machine's own speeds."""
    paths = wanted[0][0].lora.modules
    networks = {
        f"{part}.{name}": parameter
        for part, network in handle.base.networks().items()
        for name, parameter in network.named_parameters()
    }
    numbers = sum(
        parameter.numel()
        for name, parameter in networks.items()
        if name.removesuffix(".weight") in paths
        # Canonical paths have a level that newer text encoders have not.
        or name.replace("text_encoder.", "text_encoder.text_model.").removesuffix(".weight")
        in paths
    )
    rank = sum(next(iter(lora.lora.modules.values())).rank for lora, _ in wanted)
    moved = numbers * 4 * 2.0
    flops = numbers * 2.0 * rank
    large = torch.randn(1 << 24)
    target = torch.empty_like(large)
    copy = _median_seconds(lambda: _ignore(target.copy_(large)), 5)
    square = torch.randn(768, 768)
    product = _median_seconds(lambda: _ignore(square @ square), 9)
    return {
        "bytes": moved,
        "flops": flops,
        "seconds": moved / (large.nbytes * 2 / copy) + flops / (2 * 768**3 / product),
    }


def _by_turns(programs: dict[str, Callable[[int], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each, by turns after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, program in programs.items():
            began = time.perf_counter()
            program(turn)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def _median_seconds(work: Callable[[], None], rounds: int) -> float:
    return _by_turns({"": lambda _: work()}, rounds)[""]


def _unet_inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "sample": torch.randn(2, 4, 16, 16, generator=generator),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": torch.randn(2, 77, 256, generator=generator),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(2, 128, generator=generator),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2),
        },
        "return_dict": False,
    }


def _banked(handle: PipelineHandle, lora: LoraSpec) -> BankedLora:
    return handle.bank.load(Path(lora.path), lora.sha256)


def _weighed(lora: LoraSpec, weight: float) -> LoraSpec:
    return lora.model_copy(update={"weight": weight})


def _ignore(_: object) -> None:
    """A program's result is of no use here."""


def _print(report: dict[str, Any]) -> None:
    machine = report["machine"]
    print(f"{machine['processor']}, {machine['threads']} thread(s), {machine['versions']}")
    for name, found in report.items():
        if name.startswith("switch"):
            times, floor = found["seconds"], found["floor"]
            print(f"{name} ({found['modules']} modules, rank {report['rank']}, three LoRAs):")
            for program, seconds in times.items():
                print(f"  {program}: {seconds * 1e3:.2f} ms, {seconds / times[OURS]:.1f} × ours")
            print(
                f"  floor {floor['seconds'] * 1e3:.2f} ms ({floor['bytes'] / 1e6:.1f} MB moved, "
                f"{floor['flops'] / 1e6:.0f} MFLOP); aim ≥ {AIMS['switch']:g} ×"
            )
    step = report["step"]["seconds"]
    print("a guided UNet step at batch 1:")
    for program, seconds in step.items():
        print(f"  {program}: {seconds * 1e3:.2f} ms, {seconds / step['bare']:.3f} × bare")
    print(
        f"  outputs differ by {report['step']['relative_difference']:.1e}; "
        f"aim ≤ {AIMS['step']:g} × bare"
    )
    requests = report["requests"]
    rates = requests["images_per_second"]
    print(f"eight requests with eight sets, {requests['steps']} steps:")
    for program, rate in rates.items():
        print(f"  {program}: {rate:.2f} images/s, ours is {rates[OURS] / rate:.2f} × that")
    print(
        f"  pixels differ by {requests['largest_pixel_difference']} of 255 at most; "
        f"aim ≥ {AIMS['requests']:g} × the second"
    )


def _arguments(told: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(told)


if __name__ == "__main__":
    main()
