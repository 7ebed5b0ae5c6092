"""Sort a file's tensors into modules and token vectors, whatever layout named them.

No base model is needed: modules keep the names that the file gives them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from app.lora_format.adapter_config import adapter_config
from app.lora_format.errors import LoraNotFinite
from app.lora_format.parts import Layout
from app.lora_format.shapes import check_embeddings
from app.lora_format.sorting import sort_names
from worker.ml.lora_files.build import build
from worker.ml.lora_files.modules import AdapterModule


@dataclass(frozen=True)
class Contents:
    """A file's content.

    Attributes:
        modules: by the name the file gives the module, e.g. `lora_unet_mid_block_…` or
            `unet.mid_block.…`.
        embeddings: token vectors of the trigger word by text encoder, (vectors, width).
        unknown: names of tensors that belong to no module.
    """

    layout: Layout
    modules: dict[str, AdapterModule]
    unknown: tuple[str, ...]
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    trigger: str | None = None


def sort_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Contents:
    """Put every module together from its parts; a missing alpha, or 0, means the rank.

    Raises:
        LoraVariantUnsupported: there are tensors of a kind that is not applied, or embeddings for
            more than one word.
        LoraKeysUnknown: no name is of a layout that is read.
        LoraFileInvalid: a part is missing, or an alpha is not one number.
        LoraPairMismatch: parts of a module do not fit each other.
        LoraNotFinite: a value is NaN or infinite.
    """
    names = sort_names(tensors)
    config = adapter_config(metadata)
    modules = {
        name: build(name, {part: tensors[tensor] for part, tensor in parts.items()}, config)
        for name, parts in names.modules.items()
    }
    vectors = {encoder: tensors[tensor] for encoder, tensor in names.embeddings.items()}
    if names.trigger is not None:
        _check_vectors(names.trigger, vectors)
    vectors = {encoder: torch.atleast_2d(tensor) for encoder, tensor in vectors.items()}
    return Contents(names.layout, modules, names.unknown, vectors, names.trigger)


def _check_vectors(trigger: str, vectors: Mapping[str, Tensor]) -> None:
    check_embeddings(trigger, {encoder: tuple(vector.shape) for encoder, vector in vectors.items()})
    for encoder, tensor in vectors.items():
        if not bool(torch.isfinite(tensor.float()).all()):
            raise LoraNotFinite(f"the embedding of {trigger} for {encoder} holds NaN")
