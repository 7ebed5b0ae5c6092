"""Sort a file's tensors into modules and token vectors, whatever layout named them.

No base model is needed: modules keep the names that the file gives them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from app.lora_format.adapter_config import adapter_config
from app.lora_format.errors import (
    LoraFileInvalid,
    LoraKeysUnknown,
    LoraNotFinite,
    LoraPairMismatch,
    LoraVariantUnsupported,
)
from app.lora_format.parts import Layout, Part, part_of, refuse_unsupported
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
    parts: dict[str, dict[str, Tensor]] = {}
    embeddings: dict[str, dict[str, Tensor]] = {}
    unknown: list[str] = []
    layouts: set[Layout] = set()
    for name, tensor in tensors.items():
        found = part_of(name)
        if isinstance(found, Part):
            here = parts.setdefault(found.module, {})
            if found.part in here:
                raise LoraFileInvalid(f"{found.module}: the file has its {found.part} twice")
            here[found.part] = tensor
            if found.part != "alpha":
                layouts.add(found.layout)
        elif found is None:
            unknown.append(name)
        else:
            embeddings.setdefault(found.trigger, {})[found.text_encoder] = tensor
    refuse_unsupported(unknown)
    # An alpha with nothing to scale changes nothing.
    lonely = [name for name, of_module in parts.items() if set(of_module) == {"alpha"}]
    for name in lonely:
        del parts[name]
        unknown.append(f"{name}.alpha")
    if not parts:
        first = ", ".join(list(tensors)[:5])
        raise LoraKeysUnknown(f"no tensor is named as in a LoRA; the first names are: {first}")
    config = adapter_config(metadata)
    modules = {name: build(name, of_module, config) for name, of_module in parts.items()}
    trigger, vectors = _trigger(embeddings)
    return Contents(sorted(layouts)[0], modules, tuple(unknown), vectors, trigger)


def _trigger(
    embeddings: Mapping[str, Mapping[str, Tensor]],
) -> tuple[str | None, dict[str, Tensor]]:
    if len(embeddings) > 1:
        words = ", ".join(sorted(embeddings))
        raise LoraVariantUnsupported(
            f"the file has embeddings for {len(embeddings)} words ({words}); one is applied"
        )
    for trigger, by_encoder in embeddings.items():
        vectors = {encoder: torch.atleast_2d(tensor) for encoder, tensor in by_encoder.items()}
        counts = {encoder: tuple(tensor.shape) for encoder, tensor in vectors.items()}
        if any(t.ndim != 2 or t.numel() == 0 for t in vectors.values()) or (
            len({tensor.shape[0] for tensor in vectors.values()}) > 1
        ):
            raise LoraPairMismatch(
                f"the embeddings of {trigger} are {counts}; they must be (vectors, width) with as "
                f"many vectors for each text encoder"
            )
        for encoder, tensor in vectors.items():
            if not bool(torch.isfinite(tensor.float()).all()):
                raise LoraNotFinite(f"the embedding of {trigger} for {encoder} holds NaN")
        return trigger, vectors
    return None, {}
