"""Check a LoRA file before anything believes it: header, names, shapes, numbers, family.

Nothing is unpickled, no tensor is ever whole in memory, and no base model is needed.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.lora_format.adapter_config import METADATA_KEY, adapter_config
from app.lora_format.architectures import Architecture, architectures
from app.lora_format.digest import digest
from app.lora_format.errors import (
    LoraFileError,
    LoraFileInvalid,
    LoraIncompatible,
    LoraKeysUnknown,
    LoraPairMismatch,
    LoraScaleUntold,
    LoraVariantUnsupported,
)
from app.lora_format.family import Family, recognise
from app.lora_format.finite import check_finite, read_number
from app.lora_format.hashes import file_hashes
from app.lora_format.header import Header, HeaderLimits, read_header
from app.lora_format.report import Contents, FileKind, LoraFileReport
from app.lora_format.shapes import ModuleShape, as_vectors, check_embeddings, module_shape
from app.lora_format.sorting import SortedNames, sort_names

# How many names an error gives as examples.
_EXAMPLES = 5


def check_file(
    path: Path,
    limits: HeaderLimits | None = None,
    *,
    strict: bool = True,
    architecture: str | None = None,
) -> LoraFileReport:
    """Read a file and refuse it unless it can be used.

    Args:
        strict: refuse a file that has a key without a place in the base model; else such keys are
            listed in the report.
        architecture: id of the one that it must fit; None: any that is known.

    Raises:
        LoraFileError: its `code` says what is wrong: `lora_file_invalid`, `lora_keys_unknown`,
            `lora_shape_mismatch`, `lora_not_finite`, `lora_variant_unsupported`,
            `lora_scale_untold` or `lora_incompatible`.
        OSError: it cannot be opened.
    """
    report = describe(path, limits, strict=strict, architecture=architecture)
    if report.problems:
        raise report.problems[0]
    return report


def describe(
    path: Path,
    limits: HeaderLimits | None = None,
    *,
    strict: bool = True,
    architecture: str | None = None,
) -> LoraFileReport:
    """Read a file; what keeps a sound one from being used is listed in `problems`.

    Args:
        strict, architecture: as of `check_file`.

    Raises:
        LoraFileError: it is damaged, `lora_file_invalid`, `lora_shape_mismatch` or
            `lora_not_finite`: not a sound safetensors file, half of a module is missing, parts of
            one do not fit each other, or a number is none.
        OSError: it cannot be opened.
    """
    header = read_header(path, limits)
    names, problem = _sorted(header)
    shapes: dict[str, ModuleShape] = {}
    if names is not None:
        shapes = _module_shapes(header, names)
    check_finite(path, header, _not_counting(names, shapes))
    family = recognise(shapes or header.tensors, shapes)
    problems = [] if problem is None else [problem]
    contents = None
    target = _target(family, architecture)
    if names is not None:
        fit = _Fit.of(target, shapes) if target else None
        contents = _contents(path, header, names, shapes, fit)
        if fit is not None and target is not None:
            problems += _misfits(fit, contents, target, strict=strict)
            problems += _wrong_vectors(header, names, target)
        if strict:
            problems += _scale_untold(header, names)
    if refusal := _other_family(family, target, contents, header):
        # Names and shapes of another family are wrong for no other reason.
        problems = [refusal]
    trigger = names.trigger if names else None
    return LoraFileReport(
        family=family,
        architecture=target.id if target and not refusal else None,
        contents=contents,
        tensors=len(header.tensors),
        dtypes=tuple(sorted({dtype for dtype, _ in header.tensors.values()})),
        nbytes=path.stat().st_size,
        metadata=header.metadata,
        digest=digest(header.metadata, trigger),
        hashes=file_hashes(path, header),
        problems=tuple(problems),
    )


def _sorted(header: Header) -> tuple[SortedNames | None, LoraFileError | None]:
    try:
        return sort_names(header.tensors), None
    except (LoraKeysUnknown, LoraVariantUnsupported) as error:
        return None, error


def _module_shapes(header: Header, names: SortedNames) -> dict[str, ModuleShape]:
    if names.trigger is not None:
        vectors = {encoder: header.tensors[name][1] for encoder, name in names.embeddings.items()}
        check_embeddings(names.trigger, vectors)
    return {
        module: module_shape(module, {part: header.tensors[name][1] for part, name in of.items()})
        for module, of in names.modules.items()
    }


def _not_counting(names: SortedNames | None, shapes: Mapping[str, ModuleShape]) -> set[str]:
    """Alphas of modules whose scale is 1 whatever they say."""
    if names is None:
        return set()
    unscaled = [names.modules[module] for module, shape in shapes.items() if not shape.scaled]
    return {parts["alpha"] for parts in unscaled if "alpha" in parts}


def _target(family: Family | None, architecture: str | None) -> Architecture | None:
    """What the file is held against."""
    known = architectures()
    if architecture is not None:
        if architecture not in known:
            raise LoraIncompatible(
                f"the modules of {architecture} are not known; LoRAs are checked for "
                f"{', '.join(known)}"
            )
        return known[architecture]
    return known.get(family.id) if family else None


@dataclass(frozen=True)
class _Fit:
    """Where the modules of a file belong in a base model."""

    networks: Counter[str]
    unmatched: tuple[str, ...]
    misfits: tuple[str, ...]

    @classmethod
    def of(cls, target: Architecture, shapes: Mapping[str, ModuleShape]) -> "_Fit":
        """Raises LoraFileInvalid when two modules change the same weight."""
        taken: set[str] = set()
        unmatched, misfits = [], []
        networks: Counter[str] = Counter()
        for name, shape in shapes.items():
            canonical = target.index.find(name)
            if canonical is None:
                unmatched.append(name)
            elif canonical in taken:
                raise LoraFileInvalid(f"{name}: the file changes {canonical} twice")
            else:
                taken.add(canonical)
                if reason := shape.misfit(target.weights[canonical]):
                    misfits.append(f"{name} {reason}")
                else:
                    networks[canonical.partition(".")[0]] += 1
        return cls(networks, tuple(unmatched), tuple(misfits))


def _contents(
    path: Path,
    header: Header,
    names: SortedNames,
    shapes: Mapping[str, ModuleShape],
    fit: _Fit | None,
) -> Contents:
    config = adapter_config(header.metadata)
    alphas: Counter[float] = Counter()
    for module, shape in shapes.items():
        stored = names.modules[module].get("alpha")
        alpha = float(shape.rank)
        if shape.scaled and stored is not None:
            alpha = read_number(path, header, stored) or alpha
        elif shape.scaled:
            alpha = config.alpha(module, shape.rank) or alpha
        alphas[alpha] += 1
    kinds: set[FileKind] = {shape.kind for shape in shapes.values()}
    if any(shape.magnitudes for shape in shapes.values()):
        kinds.add("dora")
    return Contents(
        layout=names.layout,
        kinds=tuple(sorted(kinds)),
        modules=len(shapes),
        ranks=Counter(shape.rank for shape in shapes.values()),
        alphas=alphas,
        networks=fit.networks if fit else Counter(),
        unmatched=(fit.unmatched if fit else ()) + names.unknown,
        misfits=fit.misfits if fit else (),
        trigger=names.trigger,
    )


def _other_family(
    family: Family | None, target: Architecture | None, contents: Contents | None, header: Header
) -> LoraIncompatible | None:
    """The refusal of a file that was made for something else."""
    wanted = [target] if target else list(architectures().values())
    titles = " or ".join(f"{each.title} ({each.id})" for each in wanted)
    if family is not None and family.id not in {each.id for each in wanted}:
        return LoraIncompatible(f"the file was made for {family.title}; {titles} is needed")
    if family is not None or contents is None or contents.matched:
        return None
    if target is not None and contents.misfits:
        return LoraIncompatible(
            f"the file's names are those of {titles}, its widths are not: none of "
            f"{len(contents.misfits)} modules fits, such as: {contents.misfits[0]}"
        )
    if target is None:
        return LoraIncompatible(
            f"nothing tells what model the file was made for; {titles} is needed. Its first names "
            f"are: {_some(tuple(header.tensors))}"
        )
    return None


def _misfits(
    fit: _Fit, contents: Contents, target: Architecture, *, strict: bool
) -> list[LoraFileError]:
    found: list[LoraFileError] = []
    if contents.unmatched and (strict or not contents.matched):
        found.append(
            LoraKeysUnknown(
                f"keys without a place in {target.title}: {len(contents.unmatched)}, which are "
                f"{_some(contents.unmatched)}"
            )
        )
    if fit.misfits:
        found.append(
            LoraPairMismatch(
                f"{len(fit.misfits)} of {contents.modules} modules do not fit {target.title}: "
                f"{_some(fit.misfits, '; ')}"
            )
        )
    return found


def _scale_untold(header: Header, names: SortedNames) -> list[LoraFileError]:
    """PEFT tells alpha in a file beside this one, without which every scale is a guess."""
    told = METADATA_KEY in header.metadata
    alphas = any("alpha" in parts for parts in names.modules.values())
    if names.layout != "peft" or told or alphas:
        return []
    return [
        LoraScaleUntold(
            "PEFT keeps alpha in adapter_config.json, and this file alone does not tell it; "
            "convert the folder with `python -m worker.ml.lora_files convert`, or send "
            "strict=false if alpha is the rank"
        )
    ]


def _wrong_vectors(header: Header, names: SortedNames, target: Architecture) -> list[LoraFileError]:
    widths = {
        encoder: as_vectors(header.tensors[name][1])[1]
        for encoder, name in names.embeddings.items()
    }
    wrong = {
        encoder: width for encoder, width in widths.items() if width != target.token_widths[encoder]
    }
    if not wrong:
        return []
    return [
        LoraPairMismatch(
            f"the token vectors of {names.trigger} have widths {wrong}; {target.title} has "
            f"{target.token_widths}"
        )
    ]


def _some(names: tuple[str, ...], between: str = ", ") -> str:
    more = len(names) - _EXAMPLES
    return between.join(names[:_EXAMPLES]) + (f" and {more} more" if more > 0 else "")
