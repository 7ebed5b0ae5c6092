"""Sort a file's tensor names into modules and token vectors, whatever layout named them."""

from collections.abc import Iterable
from dataclasses import dataclass

from app.lora_format.errors import LoraFileInvalid, LoraKeysUnknown, LoraVariantUnsupported
from app.lora_format.parts import Layout, Part, part_of, refuse_unsupported


@dataclass(frozen=True)
class SortedNames:
    """A file's tensors, by what they are.

    Attributes:
        modules: tensors by part (see `parts.Part`), by the name the file gives the module, e.g.
            `lora_unet_mid_block_…` or `unet.mid_block.…`.
        unknown: tensors that belong to no module.
        trigger: the word that token vectors in the file stand for; None without any.
        embeddings: tensors of its vectors by text encoder.
    """

    layout: Layout
    modules: dict[str, dict[str, str]]
    unknown: tuple[str, ...]
    trigger: str | None
    embeddings: dict[str, str]


def sort_names(names: Iterable[str]) -> SortedNames:
    """Find out what each tensor is.

    Raises:
        LoraVariantUnsupported: there are tensors of a kind that is not applied, or embeddings for
            more than one word.
        LoraKeysUnknown: no name is of a layout that is read.
        LoraFileInvalid: two tensors are the same part of a module.
    """
    names = list(names)
    modules: dict[str, dict[str, str]] = {}
    embeddings: dict[str, dict[str, str]] = {}
    unknown: list[str] = []
    layouts: set[Layout] = set()
    for name in names:
        found = part_of(name)
        if isinstance(found, Part):
            parts = modules.setdefault(found.module, {})
            if found.part in parts:
                raise LoraFileInvalid(f"{found.module}: the file has its {found.part} twice")
            parts[found.part] = name
            if found.part != "alpha":
                layouts.add(found.layout)
        elif found is None:
            unknown.append(name)
        else:
            embeddings.setdefault(found.trigger, {})[found.text_encoder] = name
    refuse_unsupported(unknown)
    # An alpha with nothing to scale changes nothing.
    lonely = [module for module, parts in modules.items() if set(parts) == {"alpha"}]
    unknown += [modules.pop(module)["alpha"] for module in lonely]
    if not modules:
        first = ", ".join(names[:5])
        raise LoraKeysUnknown(f"no tensor is named as in a LoRA; the first names are: {first}")
    if len(embeddings) > 1:
        words = ", ".join(sorted(embeddings)[:5])
        raise LoraVariantUnsupported(
            f"the file has embeddings for {len(embeddings)} words ({words}); one is applied"
        )
    trigger, vectors = next(iter(embeddings.items()), (None, {}))
    return SortedNames(sorted(layouts)[0], modules, tuple(unknown), trigger, vectors)
