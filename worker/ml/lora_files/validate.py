"""Look into a LoRA file without a base model: what is it, is it sound, what was it made for?"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from worker.ml.lora_files.header import HeaderLimits, read_header
from worker.ml.lora_files.pairs import Layout, Pairs
from worker.ml.lora_files.read import read_pairs

# Width of the text that cross attention reads, by architecture as the catalog names it.
_TEXT_WIDTHS = {768: "sd-1", 1024: "sd-2", 2048: "sdxl", 256: "emoji-64"}


@dataclass(frozen=True)
class LoraFileReport:
    """What a sound LoRA file holds.

    Attributes:
        architecture: of the base it fits, as far as its shapes tell; None when they do not.
        modules: how many modules it changes.
        ranks, alphas, dtypes: those that occur, ascending.
        unknown: names of tensors that belong to no module.
        sha256: of the whole file.
    """

    layout: Layout
    architecture: str | None
    modules: int
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    dtypes: tuple[str, ...]
    unknown: tuple[str, ...]
    metadata: dict[str, str]
    sha256: str
    nbytes: int


def inspect(path: Path, limits: HeaderLimits | None = None) -> LoraFileReport:
    """Check a file and describe it.

    Raises:
        LoraFileError: its `code` says what is wrong: `lora_file_invalid`, `lora_keys_unknown`,
            `lora_shape_mismatch`, `lora_not_finite` or `lora_variant_unsupported`.
        OSError: it cannot be opened.
    """
    header = read_header(path, limits)
    pairs, metadata = read_pairs(path, limits)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    modules = pairs.modules.values()
    return LoraFileReport(
        layout=pairs.layout,
        architecture=_architecture(pairs),
        modules=len(modules),
        ranks=tuple(sorted({module.rank for module in modules})),
        alphas=tuple(sorted({module.alpha for module in modules})),
        dtypes=tuple(sorted({dtype for dtype, _ in header.tensors.values()})),
        unknown=pairs.unknown,
        metadata=metadata,
        sha256=sha256,
        nbytes=path.stat().st_size,
    )


def _architecture(pairs: Pairs) -> str | None:
    """By the input width of a cross attention's key or value projection."""
    for name, module in pairs.modules.items():
        if name.replace(".", "_").endswith(("attn2_to_k", "attn2_to_v")):
            return _TEXT_WIDTHS.get(module.down.shape[1])
    return None
