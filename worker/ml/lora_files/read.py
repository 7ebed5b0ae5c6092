"""Read a LoRA file of any supported layout into modules of a given base model."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from app.lora_format.errors import LoraFileInvalid
from app.lora_format.header import HeaderLimits, read_header
from app.lora_format.index import LoraIndex
from worker.ml.lora_files.contents import Contents, sort_tensors
from worker.ml.lora_files.modules import AdapterModule, Lora


def read_lora(
    path: Path,
    index: LoraIndex,
    limits: HeaderLimits | None = None,
    beside: Mapping[str, str] | None = None,
) -> tuple[Lora, tuple[str, ...]]:
    """Parse a file, header first; nothing is ever unpickled.

    Args:
        index: of the base model the LoRA is to change.
        beside: what stands beside the file, such as PEFT's configuration, as if it stood in its
            metadata; the file's own counts where both say something.

    Returns:
        The LoRA by canonical paths, and the names in the file that fit no module of the base.

    Raises:
        LoraFileError: see `app.lora_format.errors`; the message names what and where.
    """
    contents, metadata = read_contents(path, limits, beside)
    modules: dict[str, AdapterModule] = {}
    unmatched = list(contents.unknown)
    for name, module in contents.modules.items():
        canonical = index.find(name)
        if canonical is None:
            unmatched.append(name)
        elif canonical in modules:
            raise LoraFileInvalid(f"{name}: the file changes {canonical} twice")
        else:
            modules[canonical] = module
    lora = Lora(modules, metadata, contents.embeddings, contents.trigger)
    return lora, tuple(unmatched)


def read_contents(
    path: Path, limits: HeaderLimits | None = None, beside: Mapping[str, str] | None = None
) -> tuple[Contents, dict[str, str]]:
    """A file's modules under the names it gives them, and its metadata.

    Raises:
        LoraFileError: as for `read_lora`.
    """
    header = read_header(path, limits)
    try:
        # Copies: the loader maps the file, and a mapped file that is cut short kills the process.
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise LoraFileInvalid(f"not a sound safetensors file: {error}") from error
    return sort_tensors(tensors, {**(beside or {}), **header.metadata}), header.metadata
