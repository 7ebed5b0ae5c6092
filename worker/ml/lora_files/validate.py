"""Look into a LoRA file without a base model: what is it, is it sound, what was it made for?"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.lora_format.header import HeaderLimits, read_header
from app.lora_format.parts import Layout
from worker.ml.lora_files.contents import Contents
from worker.ml.lora_files.modules import AdapterModule, LohaModule, LokrModule, LoraModule
from worker.ml.lora_files.read import read_contents

Kind = Literal["lora", "locon", "dora", "loha", "lokr"]

# Width of the text that cross attention reads, by architecture as the catalog names it.
_TEXT_WIDTHS = {768: "sd-1", 1024: "sd-2", 2048: "sdxl", 256: "emoji-64"}


@dataclass(frozen=True)
class LoraFileReport:
    """What a sound LoRA file holds.

    Attributes:
        kind: what its modules are: `lora` of linears and `locon` of convolutions, `loha`, `lokr`;
            `dora` beside these when some have magnitudes.
        architecture: of the base it fits, as far as its shapes tell; None when they do not.
        modules: how many modules it changes.
        ranks, alphas, dtypes: those that occur, ascending; 1 stands for the rank of a LoKr of two
            whole factors.
        trigger: the word that embeddings in the file stand for.
        unknown: names of tensors that belong to no module.
        sha256: of the whole file.
    """

    layout: Layout
    kind: frozenset[Kind]
    architecture: str | None
    modules: int
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    dtypes: tuple[str, ...]
    unknown: tuple[str, ...]
    trigger: str | None
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
    contents, metadata = read_contents(path, limits)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    modules = contents.modules.values()
    return LoraFileReport(
        layout=contents.layout,
        kind=frozenset(kind for module in modules for kind in _kinds(module)),
        architecture=_architecture(contents),
        modules=len(modules),
        ranks=tuple(sorted({module.rank for module in modules})),
        alphas=tuple(sorted({module.alpha for module in modules})),
        dtypes=tuple(sorted({dtype for dtype, _ in header.tensors.values()})),
        unknown=contents.unknown,
        trigger=contents.trigger,
        metadata=metadata,
        sha256=sha256,
        nbytes=path.stat().st_size,
    )


def _kinds(module: AdapterModule) -> set[Kind]:
    found: set[Kind] = set()
    if isinstance(module, LohaModule):
        found.add("loha")
    elif isinstance(module, LokrModule):
        found.add("lokr")
    elif isinstance(module, LoraModule):
        found.add("locon" if module.down.ndim == 4 else "lora")
    if module.dora_scale is not None:
        found.add("dora")
    return found


def _architecture(contents: Contents) -> str | None:
    """By the input width of a cross attention's key or value projection."""
    for name, module in contents.modules.items():
        if name.replace(".", "_").endswith(("attn2_to_k", "attn2_to_v")):
            return _TEXT_WIDTHS.get(module.matrix_shape[1])
    return None
