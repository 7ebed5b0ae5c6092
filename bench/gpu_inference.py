"""Inference at SDXL's full size: switching LoRAs, drawing, requests of different sets in a batch.

    python -m bench.gpu_inference [--toy] [--base FOLDER] [--steps N] [--rounds N] [--json FILE]

Weights are random unless a folder with others is given, which costs a step nothing. Ours goes
first and diffusers after it, each with the device to itself, so that peak memory is its own.
Without a CUDA device, or with `--toy`, emoji-64 takes SDXL's place, which proves only that
everything runs: none of its figures says anything of SDXL's.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench import sdxl
from bench.diffusers_peer import Peer
from bench.lines import HEAD, Lines, first_line
from bench.lora_files import make_files
from bench.random_base import make_part, write_random_base
from bench.settings import BASE, REPOSITORY
from bench.speeds import copy_bytes, matmul_flops, upload_bytes
from worker.ml.base_models.device import DevicePolicy, choose_policy
from worker.ml.inference.bank import AdapterBank
from worker.ml.inference.batches import batches
from worker.ml.inference.denoise import denoise
from worker.ml.inference.errors import InferenceError
from worker.ml.inference.generate import Watch, generate_many
from worker.ml.inference.pipelines import PipelineHandle, open_pipeline
from worker.ml.inference.prepare import Use, prepare
from worker.ml.inference.spec import BaseModelSpec, GenerationSpec, LoraSpec

RANK = 32
# LoRAs of a set, and how strong each is.
TOGETHER = 5
WEIGHT = 0.5
# Answers are compared with LoRAs as strong as they may be: in half precision rounding alone is
# nearly as large as what a set at its usual strength changes.
STRONG = 10.0
GUIDANCE = 5.0
AIM_SWITCH_SECONDS = 0.050
BATCHES = (1, 4)
PROMPTS = ("red apple", "blue car", "yellow star", "green tree")
SWITCH, REQUESTS = "switch, five LoRAs", "four requests, four sets"
GIB = 1024**3


@dataclass(frozen=True)
class Scale:
    """What draws: the full architecture, or the toy."""

    name: str
    base: BaseModelSpec
    resolution: int
    steps: int


@dataclass(frozen=True)
class Best:
    """What the device reaches, a second, where nothing holds it up."""

    flops: float
    copied_bytes: float
    uploaded_bytes: float

    @classmethod
    def of(cls, policy: DevicePolicy) -> "Best":
        """Measured now."""
        device = policy.device
        return cls(matmul_flops(device, policy.dtype), copy_bytes(device), upload_bytes(device))


class Bench:
    """Ours, then diffusers, on one device.

    Attributes:
        lines: what was measured.
        differences: how far answers to the same inputs are from each other, as a share of what
            the LoRAs change in them.
        graphs_after_switch: how many graphs were compiled anew because LoRAs were switched; None
            where nothing could be compiled.
    """

    def __init__(self, scale: Scale, policy: DevicePolicy, rounds: int, backend: str) -> None:
        self.scale = scale
        self.policy = policy
        self.backend = backend
        self.best = Best.of(policy)
        self.lines = Lines(policy.device, rounds)
        self.differences: dict[str, float] = {}
        self.graphs_after_switch: int | None = None
        self.flops_per_row = self._counted_flops()
        # What the UNet answered, by what was in place.
        self._answers: dict[str, Tensor] = {}

    def run(self, folder: Path) -> None:
        """Every line.

        Args:
            folder: an empty one, for the LoRAs' files.
        """
        handle = open_pipeline(self.scale.base, self.policy)
        made = make_files(
            handle, folder, count=2 * TOGETHER, rank=RANK, encoders=False, dtype=torch.float16
        )
        loras = _weighed(made, WEIGHT)
        self._ours(handle, loras)
        del handle
        self.lines.clear()
        self._diffusers(Peer(self.scale.base.location, self.policy), loras)

    def _ours(self, handle: PipelineHandle, loras: Sequence[LoraSpec]) -> None:
        bank, unet = handle.bank, handle.base.unet
        sets = _uses(bank, loras)
        self._answers["bare"] = self._answer(unet)
        self._switch(bank, sets)
        self._switch_when_crowded(handle, loras)
        for batch in BATCHES:
            self._draw(handle, "bare base", batch, [])
        for batch in BATCHES:
            self._draw(handle, "ours, five merged", batch, loras[:TOGETHER])
        strong = _uses(bank, _weighed(loras, STRONG))
        self._answers["merged"] = self._answer_merged(bank, unet, strong[0])
        self._answers["merged, other set"] = self._answer_merged(bank, unet, strong[1])
        self._answers["stacked"] = self._answer_stacked(bank, unet, strong[0])
        self._compare("ours stacked and ours merged", self._answers["stacked"], "merged")
        specs = self._requests(loras)
        self.lines.measure(
            REQUESTS, "ours, in one batch", lambda _: _drawn(handle, specs), images=len(specs)
        )
        self.lines.measure(
            REQUESTS,
            "ours, one after another",
            lambda _: [_drawn(handle, [spec]) for spec in specs],
            images=len(specs),
        )
        self._compiled(handle, loras, strong)

    def _switch(
        self, bank: AdapterBank, sets: Sequence[Sequence[Use]], taken_bytes: int = 0
    ) -> None:
        """Time from one set of five to another; where pristine weights went is looked up.

        Args:
            taken_bytes: of the device, while the bank decides where to keep pristine weights.
        """
        cuda = self.policy.device.type == "cuda"
        ballast = torch.empty(taken_bytes, dtype=torch.uint8, device=self.policy.device)
        before = torch.cuda.memory_allocated() if cuda else 0
        # The first switch copies them.
        bank.activate(sets[0])
        grown = cuda and torch.cuda.memory_allocated() > before
        del ballast
        kept = "on the device" if grown else "in host memory"
        self.lines.measure(
            SWITCH,
            f"ours, pristine weights {kept}",
            lambda turn: bank.activate(sets[(turn + 1) % 2]),
            least_seconds=self._least_switch_seconds(sets[0]),
        )
        bank.activate([])

    def _switch_when_crowded(self, handle: PipelineHandle, loras: Sequence[LoraSpec]) -> None:
        """The same by a bank that finds most of the device's memory taken."""
        bank = AdapterBank(handle.base.networks(), capacity_bytes=4 * GIB)
        taken = 0
        if self.policy.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.policy.device)
            taken = max(0, free - total // 2 + GIB)
        self._switch(bank, _uses(bank, loras), taken)

    def _least_switch_seconds(self, wanted: Sequence[Use]) -> float:
        """LoRAs uploaded, W0 read and W written in device memory, products: all at its best."""
        loras = [banked.lora for banked, _ in wanted]
        shapes = [module.matrix_shape for module in loras[0].modules.values()]
        numbers = sum(rows * columns for rows, columns in shapes)
        return (
            sum(lora.nbytes for lora in loras) / self.best.uploaded_bytes
            + 2 * numbers * self.policy.dtype.itemsize / self.best.copied_bytes
            + 2 * numbers * RANK * len(loras) / self.best.flops
        )

    def _draw(
        self, handle: PipelineHandle, program: str, batch: int, loras: Sequence[LoraSpec]
    ) -> None:
        """All steps of one request's pictures, without prompts and decoding."""
        spec = self._spec(PROMPTS[0], range(batch), loras)
        (together,) = batches([prepare(handle, 0, spec)], lambda _: batch)
        self.lines.measure(
            f"{self.scale.steps} steps, batch {batch}",
            program,
            lambda _: denoise(handle, together, lambda _: None),
            images=batch,
            least_seconds=self._least_draw_seconds(batch),
        )

    def _least_draw_seconds(self, batch: int) -> float:
        # With guidance each picture is two rows.
        return 2 * batch * self.scale.steps * self.flops_per_row / self.best.flops

    def _compiled(
        self, handle: PipelineHandle, loras: Sequence[LoraSpec], sets: Sequence[Sequence[Use]]
    ) -> None:
        """Drawing with the UNet's repeated blocks compiled, and whether a switch still counts."""
        bank, unet = handle.bank, handle.base.unet
        unet.compile_repeated_blocks(dynamic=False, backend=self.backend)
        for batch in BATCHES:
            self._draw(handle, "ours, five merged, compiled", batch, loras[:TOGETHER])
        try:
            found = self._answer_merged(bank, unet, sets[0])
            before = _compiled_graphs()
            other = self._answer_merged(bank, unet, sets[1])
            self.graphs_after_switch = _compiled_graphs() - before
            # Compiled blocks do not see what is put beside their layers later: rows with LoRAs of
            # their own would be drawn without any.
            with torch.compiler.set_stance("force_eager"):
                stacked = self._answer_stacked(bank, unet, sets[0])
        except RuntimeError as error:
            print(f"compiled blocks do not run: {first_line(error)}", flush=True)
            return
        print(f"graphs compiled anew after a switch: {self.graphs_after_switch}", flush=True)
        self._compare("compiled and eager", found, "merged")
        self._compare("compiled and eager, after a switch", other, "merged, other set")
        self._compare("stacked, beside compiled blocks", stacked, "stacked")

    def _diffusers(self, peer: Peer, loras: Sequence[LoraSpec]) -> None:
        sets = loras[:TOGETHER], loras[TOGETHER:]
        peer.parse(loras)
        self.lines.measure(
            SWITCH, "diffusers, loaded each time", lambda turn: peer.switch(sets[turn % 2])
        )
        peer.switch(_weighed(sets[0], STRONG))
        answer = self._answer(peer.base.unet)
        self._compare("diffusers and ours merged", answer, "merged")
        self._compare("diffusers and ours stacked", answer, "stacked")
        peer.choose(sets[0])
        for batch in BATCHES:
            self._draw_peer(peer, "diffusers, five beside the base", batch)
        peer.pipeline.fuse_lora()
        for batch in BATCHES:
            self._draw_peer(peer, "diffusers, five fused", batch)
        peer.pipeline.unfuse_lora()

        specs = self._requests(loras)
        self.lines.measure(
            REQUESTS,
            "diffusers, loaded each time",
            lambda _: [_switched_and_drawn(peer, spec) for spec in specs],
            images=len(specs),
        )
        peer.switch(())
        self.lines.measure(
            REQUESTS,
            "diffusers, all kept loaded",
            lambda _: [_chosen_and_drawn(peer, spec) for spec in specs],
            images=len(specs),
        )
        # All of them, so that no turn below loads any.
        for chosen in sets:
            peer.choose(chosen)
        self.lines.measure(
            SWITCH, "diffusers, all kept loaded", lambda turn: peer.choose(sets[turn % 2])
        )

    def _draw_peer(self, peer: Peer, program: str, batch: int) -> None:
        with torch.no_grad():
            embeds = peer.pipeline.encode_prompt(PROMPTS[0], device=self.policy.device)
        names = ("", "negative_", "pooled_", "negative_pooled_")
        given = {f"{name}prompt_embeds": each for name, each in zip(names, embeds, strict=True)}
        self.lines.measure(
            f"{self.scale.steps} steps, batch {batch}",
            program,
            lambda _: peer.pipeline(
                **given,
                width=self.scale.resolution,
                height=self.scale.resolution,
                num_inference_steps=self.scale.steps,
                guidance_scale=GUIDANCE,
                num_images_per_prompt=batch,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(batch)],
                output_type="latent",
            ),
            images=batch,
            least_seconds=self._least_draw_seconds(batch),
        )

    def _requests(self, loras: Sequence[LoraSpec]) -> list[GenerationSpec]:
        """Each with a prompt, a seed and a set of its own, of one to three LoRAs."""
        return [
            self._spec(prompt, [number], loras[number * 2 : number * 2 + 1 + number % 3])
            for number, prompt in enumerate(PROMPTS)
        ]

    def _spec(self, prompt: str, seeds: Sequence[int], loras: Sequence[LoraSpec]) -> GenerationSpec:
        return GenerationSpec(
            prompt=prompt,
            width=self.scale.resolution,
            height=self.scale.resolution,
            steps=self.scale.steps,
            guidance_scale=GUIDANCE,
            seeds=tuple(seeds),
            loras=tuple(loras),
            base_model=self.scale.base,
        )

    def _compare(self, what: str, found: Tensor, known: str) -> None:
        changed = (self._answers["merged"] - self._answers["bare"]).norm()
        self.differences[what] = float((found - self._answers[known]).norm() / changed)
        print(f"{what}: {self.differences[what]:.2%} of what the LoRAs change apart", flush=True)

    def _answer_merged(self, bank: AdapterBank, unet: Any, wanted: Sequence[Use]) -> Tensor:
        bank.activate(wanted)
        answer = self._answer(unet)
        bank.activate([])
        return answer

    def _answer_stacked(self, bank: AdapterBank, unet: Any, wanted: Sequence[Use]) -> Tensor:
        with bank.stacked(self.policy.device) as stack:
            stack.set([wanted], copies=2)
            return self._answer(unet)

    @torch.no_grad()
    def _answer(self, unet: Any) -> Tensor:
        """What a UNet says to inputs that are always the same, float32 in host memory."""
        inputs = self._inputs(unet.config, rows=2, device=self.policy.device)
        answer: Tensor = unet(**inputs)[0]
        return answer.float().cpu()

    def _inputs(self, config: Any, *, rows: int, device: torch.device) -> dict[str, Any]:
        """Made-up latents, token states, pooled vectors and sizes."""
        generator = torch.Generator().manual_seed(1)
        side, pixels = self.scale.resolution // self.scale.base.vae_scale_factor, self.scale
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim

        def made(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(device, self.policy.dtype)

        size = [float(pixels.resolution)] * 2
        return {
            "sample": made(rows, 4, side, side),
            "timestep": torch.tensor(500, device=device),
            "encoder_hidden_states": made(rows, sdxl.TOKENS, config.cross_attention_dim),
            "added_cond_kwargs": {
                "text_embeds": made(rows, pooled),
                "time_ids": torch.tensor([[*size, 0, 0, *size]] * rows).to(
                    device, self.policy.dtype
                ),
            },
            "return_dict": False,
        }

    def _counted_flops(self) -> float:
        """Of one row through the UNet, 2 · multiply-adds, counted without weights."""
        meta = torch.device("meta")
        found = UNet2DConditionModel.load_config(self.scale.base.location, subfolder="unet")
        config = {name: value for name, value in found.items() if not name.startswith("_")}
        unet = make_part("unet", config, meta, self.policy.dtype)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(**self._inputs(unet.config, rows=1, device=meta))
        return float(counter.get_total_flops())

    def report(self) -> dict[str, Any]:
        """Everything that was found, as JSON has it."""
        return {
            "scale": self.scale.name,
            "base": Path(self.scale.base.location).name,
            "resolution": self.scale.resolution,
            "steps": self.scale.steps,
            "guidance_scale": GUIDANCE,
            "rank": RANK,
            "target": "attention",
            "device": _device_name(self.policy.device),
            "dtype": str(self.policy.dtype),
            "cuda": torch.version.cuda,
            "versions": {name: version(name) for name in ("torch", "diffusers", "peft")},
            "rounds": self.lines.rounds,
            "backend": self.backend,
            "best": asdict(self.best),
            "tflop_per_row": self.flops_per_row / 1e12,
            "aim_switch_seconds": AIM_SWITCH_SECONDS,
            "lines": [asdict(line) for line in self.lines.found],
            "differences": self.differences,
            "graphs_after_switch": self.graphs_after_switch,
        }


def main() -> None:
    """Measure, print and write."""
    args = _arguments()
    # diffusers remarks on every file without text encoders.
    diffusers_logging.set_verbosity_error()
    # peft remarks on every adapter after the first, which is what is wanted here.
    warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
    policy = choose_policy()
    toy = args.toy or policy.device.type != "cuda"
    if toy:
        print("toy size: emoji-64, whose figures say nothing of SDXL's")
    with tempfile.TemporaryDirectory(prefix="lorawright-bench-") as name:
        folder = Path(name)
        if toy:
            scale = toy_scale(args.steps)
        else:
            base = args.base or write_random_base(folder / "sdxl", policy.device, policy.dtype)
            scale = full_scale(base, args.steps)
        bench = Bench(scale, policy, args.rounds, args.backend)
        best = bench.best
        print(
            f"{_device_name(policy.device)}, {policy.dtype}: {best.flops / 1e12:.3g} TFLOP/s in a "
            f"large product, {best.copied_bytes / 1e9:.3g} GB/s copied, "
            f"{best.uploaded_bytes / 1e9:.3g} GB/s uploaded; a row takes "
            f"{bench.flops_per_row / 1e12:.4g} TFLOP; a switch should take "
            f"{AIM_SWITCH_SECONDS * 1000:.0f} ms at most\n{HEAD}"
        )
        (folder / "loras").mkdir()
        bench.run(folder / "loras")
    file = args.json
    if file is None and not toy:
        device = _device_name(policy.device).lower().replace(" ", "-")
        file = REPOSITORY / "bench" / "results" / f"gpu_inference_{device}.json"
    if file is not None:
        file.write_text(json.dumps(bench.report(), indent=1) + "\n")


def full_scale(base: Path, steps: int) -> Scale:
    """SDXL at the size it was made for."""
    spec = BaseModelSpec(
        id="sdxl",
        location=str(base),
        architecture="sdxl",
        vae_scale_factor=sdxl.VAE_SCALE_FACTOR,
    )
    return Scale("sdxl", spec, 1024, steps)


def toy_scale(steps: int) -> Scale:
    """The small base of this repository."""
    spec = BaseModelSpec(
        id="emoji-64", location=str(BASE), architecture="emoji-64", vae_scale_factor=4
    )
    return Scale("toy", spec, 64, steps)


def _weighed(loras: Sequence[LoraSpec], weight: float) -> list[LoraSpec]:
    return [lora.model_copy(update={"weight": weight}) for lora in loras]


def _uses(bank: AdapterBank, loras: Sequence[LoraSpec]) -> tuple[list[Use], list[Use]]:
    """Two sets that share no LoRA."""
    uses = [(bank.load(Path(lora.path), lora.sha256), lora.weights) for lora in loras]
    return uses[:TOGETHER], uses[TOGETHER:]


def _drawn(handle: PipelineHandle, specs: Sequence[GenerationSpec]) -> list[Image.Image]:
    """Whole requests: prompts, steps and decoding."""
    quiet = Watch(lambda *_: None, lambda: False)
    pictures = []
    for _, outcome in generate_many(handle, specs, [quiet] * len(specs)):
        if isinstance(outcome, InferenceError):
            raise outcome
        pictures += [drawn.image for drawn in outcome.images]
    return pictures


def _switched_and_drawn(peer: Peer, spec: GenerationSpec) -> Image.Image:
    peer.switch(spec.loras)
    return peer.draw(spec)


def _chosen_and_drawn(peer: Peer, spec: GenerationSpec) -> Image.Image:
    peer.choose(spec.loras)
    return peer.draw(spec)


def _compiled_graphs() -> int:
    """How many graphs this process has compiled."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_inference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--toy", action="store_true", help="emoji-64 whatever there is")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="an SDXL pipeline's folder")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each line that count")
    parser.add_argument("--backend", default="inductor", help="what torch.compile compiles with")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
