"""The adapter bank: bring a base model to exactly the wanted set of LoRAs, and back to the bit.

Merged mode: W = W0 + Σ wᵢ · changeᵢ(W0), always from the pristine W0; of a plain LoRA the change is
(alpha / rank) · up @ down. Merging and un-merging in place would drift with every switch; here a
module outside the set gets its own bits back. Weights change by in-place copy only, so compiled
graphs and pointers stay valid. For rows of a batch with sets of their own see `stacked`.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from app.lora_format.errors import LoraFileError
from worker.ml.inference.errors import (
    LoraHashMismatch,
    LoraMatchesNothing,
    LoraShapeMismatch,
    LoraUnreadable,
)
from worker.ml.inference.packed import Piece, Uploads, is_pair, pack
from worker.ml.inference.spec import LoraWeights
from worker.ml.inference.stacked import StackedLoras, stackable
from worker.ml.lora_files.modules import AdapterModule, Lora, change, with_tensors
from worker.ml.lora_files.read import read_lora
from worker.ml.lora_files.targets import adaptable_modules, index_of

# (sha256 of the LoRA, its weight), ascending: what is summed into a module.
Recipe = tuple[tuple[str, float], ...]
# Called at each `load` with whether the LoRA was there already.
OnLoad = Callable[[bool], None]
PARTS = ("unet", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class BankedLora:
    """A LoRA parsed for this bank's base.

    Attributes:
        sha256: of its file; its identity in recipes.
        lora: the modules that the base has, in host memory (pinned where the base is on CUDA).
        pieces: where the matrices of its plain modules lie, by path.
        unmatched: names in the file that fit no module of the base.
    """

    sha256: str
    lora: Lora
    pieces: Mapping[str, Piece]
    unmatched: tuple[str, ...] = ()

    @cached_property
    def stackable(self) -> bool:
        """Whether the UNet can have it for single rows of a batch."""
        modules = self.lora.modules.items()
        return all(stackable(module) for path, module in modules if path.startswith("unet."))


@dataclass(frozen=True)
class LoraReport:
    """What became of one LoRA of the set.

    Attributes:
        matched: paths of the base's modules it changes.
        unmatched: names in its file that fit no module.
    """

    sha256: str
    weight: float | LoraWeights
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]


@dataclass(frozen=True)
class Activation:
    """What `activate` did: a report for each LoRA, and how many modules it wrote (0 = skipped)."""

    reports: tuple[LoraReport, ...]
    modules_written: int


class AdapterBank:
    """The LoRAs of one base model, and the base's weights as they should be."""

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        *,
        capacity_bytes: int,
        on_load: OnLoad | None = None,
    ) -> None:
        """Take over a base model, whose weights must be pristine now.

        Args:
            networks: the base's UNet and text encoders by their name in the pipeline; others,
                such as the VAE, are left alone.
            capacity_bytes: ceiling on the bytes of parsed LoRAs kept; the least recently used go.
        """
        self._modules = adaptable_modules(networks)
        self._index = index_of(networks)
        self._capacity_bytes = capacity_bytes
        self._on_load = on_load
        self._kept: OrderedDict[str, BankedLora] = OrderedDict()
        # Files are parsed ahead by another thread than the one that draws.
        self._lock = threading.Lock()
        # W0 of every module a LoRA ever touched, and the recipe its weight holds now.
        self._pristine: dict[str, Tensor] = {}
        self._applied: dict[str, Recipe] = {}

    @property
    def kept_bytes(self) -> int:
        """Bytes of the parsed LoRAs that are kept."""
        with self._lock:
            return self._kept_bytes()

    def _kept_bytes(self) -> int:
        return sum(banked.lora.nbytes for banked in self._kept.values())

    def load(self, path: Path, sha256: str) -> BankedLora:
        """The LoRA of a file, parsed once for as long as it is kept; any thread may ask.

        Raises:
            LoraHashMismatch: the file's sha256 is another.
            LoraUnreadable: `read_lora` refuses it.
            LoraShapeMismatch: see `put`.
        """
        with self._lock:
            kept = self._kept.get(sha256)
            if kept is not None:
                self._kept.move_to_end(sha256)
        if self._on_load is not None:
            self._on_load(kept is not None)
        if kept is not None:
            return kept
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise LoraHashMismatch(f"expected a LoRA file of sha256 {sha256}, found {found}")
            lora, unmatched = read_lora(path, self._index)
        except LoraFileError as error:
            raise LoraUnreadable(error.code, str(error)) from error
        return self.put(sha256, lora, unmatched)

    def put(self, sha256: str, lora: Lora, unmatched: Sequence[str] = ()) -> BankedLora:
        """Keep a parsed LoRA under its file's hash.

        Raises:
            LoraShapeMismatch: a module's ΔW, or its magnitudes, do not fit the base's weight.
        """
        matched: dict[str, AdapterModule] = {}
        foreign = list(unmatched)
        for path, module in lora.modules.items():
            target = self._modules.get(path)
            if target is None:
                foreign.append(path)
                continue
            _check_shape(path, module, target)
            matched[path] = module
        pin = any(_on_cuda(self._modules[path]) for path in matched)
        pieces, matched = pack(matched, pin=pin)
        banked = BankedLora(sha256, replace(lora, modules=matched), pieces, tuple(foreign))
        with self._lock:
            self._kept[sha256] = banked
            self._kept.move_to_end(sha256)
            # The newest stays even when it alone is over the limit: it is about to be used.
            while self._kept_bytes() > self._capacity_bytes and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return banked

    @torch.no_grad()
    def activate(
        self,
        wanted: Sequence[tuple[BankedLora, float | LoraWeights]],
        parts: Collection[str] = PARTS,
    ) -> Activation:
        """Bring the base to W0 plus exactly these LoRAs at these weights.

        The order of the set makes no difference to a bit; modules that hold what they should
        are not touched; an empty set, or weights of 0, give W0 back to the bit.

        Args:
            parts: the networks to bring there; the others stay as they are.

        Raises:
            LoraMatchesNothing: a LoRA changes no module; the base stays as it was.
        """
        reports = tuple(report(banked, weight) for banked, weight in wanted)
        by_path: dict[str, list[tuple[str, float, BankedLora]]] = {}
        for banked, told in wanted:
            weights = LoraWeights.everywhere(told) if not isinstance(told, LoraWeights) else told
            for path in banked.lora.modules:
                weight = weights.of(path)
                if weight != 0.0 and path.partition(".")[0] in parts:
                    by_path.setdefault(path, []).append((banked.sha256, weight, banked))

        written = 0
        uploads = Uploads()
        applied = {path for path in self._applied if path.partition(".")[0] in parts}
        # In the order in which the LoRAs' pieces hold them.
        for path in sorted(applied | by_path.keys()):
            terms = sorted(by_path.get(path, []), key=lambda term: term[:2])
            recipe = tuple((sha256, weight) for sha256, weight, _ in terms)
            if self._applied.get(path, ()) != recipe:
                # Forgotten first: should the write fail half-way, the next one starts from W0.
                self._applied[path] = (("unknown", 0.0),)
                self._write(path, [term[1:] for term in terms], uploads)
                self._applied[path] = recipe
                written += 1
        for path in [path for path, recipe in self._applied.items() if not recipe]:
            del self._applied[path]
        return Activation(reports, written)

    def stacked(self, device: torch.device) -> StackedLoras:
        """LoRAs for single rows of a batch; the UNet must be at W0 while they are in place.

        Args:
            device: where the UNet computes, whatever memory its weights lie in now.
        """
        return StackedLoras(self._modules, device)

    def _write(self, path: str, terms: list[tuple[float, BankedLora]], uploads: Uploads) -> None:
        weight = self._modules[path].weight
        assert isinstance(weight, Tensor)
        if path not in self._pristine:
            self._pristine[path] = _copy_of_pristine(weight)
        pristine = self._pristine[path]
        if not terms:
            weight.copy_(pristine, non_blocking=True)
            return
        start = _to(pristine, weight)
        merged = _with_pairs(path, start, terms, uploads)  # (out, in · kh · kw)
        for lora_weight, banked in terms:
            module = banked.lora.modules[path]
            if not is_pair(module):
                there = with_tensors(module, lambda tensor: _to(tensor, weight))
                merged = merged + lora_weight * change(there, start)
        weight.copy_(merged.view_as(weight))


def _with_pairs(
    path: str, start: Tensor, terms: list[tuple[float, BankedLora]], uploads: Uploads
) -> Tensor:
    """W0 and the plain pairs, flattened; side by side these make one pair, and one product."""
    device = start.device
    ups, downs, ranks = [], [], []
    for lora_weight, banked in terms:
        module = banked.lora.modules[path]
        if is_pair(module):
            down, up = uploads.pair(banked.sha256, banked.pieces[path], path, device)
            downs.append(down)  # (rank, in · kh · kw)
            ups.append(up)  # (out, rank)
            ranks.append((lora_weight * module.scale, module.rank))
    flat = start.flatten(1)
    if not ups:
        return flat
    up = torch.cat(ups, dim=1) * uploads.factors(ranks, device)  # (out, Σ rank), float32
    return torch.addmm(flat, up, torch.cat(downs).float())


def report(banked: BankedLora, weight: float | LoraWeights) -> LoraReport:
    """What a LoRA changes in its bank's base.

    Raises:
        LoraMatchesNothing: nothing.
    """
    if not banked.lora.modules:
        named = ", ".join(banked.unmatched[:5])
        raise LoraMatchesNothing(
            f"LoRA {banked.sha256[:12]} changes no module of this base model; its first names "
            f"are: {named}"
        )
    return LoraReport(banked.sha256, weight, tuple(banked.lora.modules), banked.unmatched)


def _check_shape(path: str, module: AdapterModule, target: nn.Module) -> None:
    """A module's ΔW must have its weight's size, and magnitudes be one a row or a column."""
    weight = target.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.flatten(1).shape
    matrices = {name: tuple(tensor.shape) for name, tensor in module.tensors().items()}
    if module.matrix_shape != (rows, columns):
        raise LoraShapeMismatch(
            f"{path}: {matrices} do not make a weight of shape {tuple(weight.shape)}"
        )
    scale = module.dora_scale
    if scale is None:
        return
    ones = [1] * (scale.ndim - 2)
    if tuple(scale.shape) not in ((rows, 1, *ones), (1, weight.shape[1], *ones)):
        raise LoraShapeMismatch(
            f"{path}: magnitudes of shape {tuple(scale.shape)} fit neither the rows nor the "
            f"columns of a weight of shape {tuple(weight.shape)}"
        )


def _to(tensor: Tensor, weight: Tensor) -> Tensor:
    """On the weight's device, float32."""
    return tensor.to(weight.device, non_blocking=True).float()


def _copy_of_pristine(weight: Tensor) -> Tensor:
    """W0 kept on the device while that leaves half its memory free, else in (pinned) host memory.

    From the device a switch costs milliseconds; over the bus, a few tenths of a second on SDXL.
    """
    if weight.device.type != "cuda":
        return weight.detach().clone()
    free, total = torch.cuda.mem_get_info(weight.device)
    if free > total // 2:
        return weight.detach().clone()
    return weight.detach().cpu().pin_memory()


def _on_cuda(target: nn.Module) -> bool:
    weight = target.weight
    return isinstance(weight, Tensor) and weight.device.type == "cuda"
