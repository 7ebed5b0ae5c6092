"""Whether a module's tensors make up one update, by their shapes alone, and of what weight.

The weight a module changes is seen as a matrix (rows, columns) = (out, in · kh · kw).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from app.lora_format.errors import LoraFileInvalid, LoraPairMismatch

Shape = tuple[int, ...]
# `lora` of linears and `locon` of convolutions.
Kind = Literal["lora", "locon", "loha", "lokr"]

_PAIR = ("down", "up", "mid")
_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


@dataclass(frozen=True)
class ModuleShape:
    """What a module's tensors say of it.

    Attributes:
        rank: what alpha is divided by; 1 of a LoKr of two whole factors.
        scaled: whether alpha counts; not of a LoKr of two whole factors, whose scale is 1.
        magnitudes: DoRA's, (rows, 1, …) or (1, in, …); None for all others.
    """

    kind: Kind
    rank: int
    rows: int
    columns: int
    magnitudes: Shape | None
    scaled: bool = True

    def misfit(self, weight: Shape) -> str | None:
        """Why it cannot change a weight of this shape, (out, in[, kh, kw]); None when it can."""
        if (self.rows, self.columns) != (weight[0], math.prod(weight[1:])):
            return f"makes a change of {(self.rows, self.columns)} for a weight of {weight}"
        scale = self.magnitudes
        if scale is None:
            return None
        ones = (1,) * (len(scale) - 2)
        if scale not in ((weight[0], 1, *ones), (1, weight[1], *ones)):
            return f"has magnitudes of {scale} for a weight of {weight}"
        return None


def module_shape(name: str, parts: Mapping[str, Shape]) -> ModuleShape:
    """Check that the parts of a module fit each other.

    Args:
        name: what the file calls it, for errors.
        parts: shapes by the names of `parts.Part`.

    Raises:
        LoraFileInvalid: a part is missing, belongs to another kind, or alpha is not one number.
        LoraPairMismatch: parts do not fit each other.
    """
    for part, shape in parts.items():
        if part == "alpha":
            if math.prod(shape) != 1:
                raise LoraFileInvalid(f"{name}.alpha has {math.prod(shape)} values, not one")
        elif 0 in shape:
            raise LoraPairMismatch(f"{name}: its {part} is {shape}; no size may be zero")
    kinds = {
        kind
        for kind, prefix in (("LoHa", "hada_"), ("LoKr", "lokr_"))
        if any(part.startswith(prefix) for part in parts)
    }
    if any(part in parts for part in _PAIR):
        kinds.add("LoRA")
    if len(kinds) > 1:
        raise LoraFileInvalid(f"{name}: it has parts of {' and of '.join(sorted(kinds))}")
    if "LoHa" in kinds:
        return _loha(name, parts)
    if "LoKr" in kinds:
        return _lokr(name, parts)
    return _lora(name, parts)


def check_embeddings(trigger: str, vectors: Mapping[str, Shape]) -> None:
    """Token vectors of a word must be (vectors, width), as many for each text encoder.

    Args:
        vectors: shapes by text encoder; (width,) stands for one vector.

    Raises:
        LoraPairMismatch: they are not.
    """
    shapes = {encoder: as_vectors(shape) for encoder, shape in vectors.items()}
    counts = {shape[0] for shape in shapes.values()}
    if len(counts) > 1 or any(len(shape) != 2 or 0 in shape for shape in shapes.values()):
        raise LoraPairMismatch(
            f"the embeddings of {trigger} are {shapes}; they must be (vectors, width) with as "
            f"many vectors for each text encoder"
        )


def as_matrix(shape: Shape) -> Shape:
    """(out, in · kh · kw) of a LoHa factor; OneTrainer keeps those of convolutions unfolded."""
    return (shape[0], math.prod(shape[1:])) if len(shape) == 4 else shape


def as_vectors(shape: Shape) -> Shape:
    """(vectors, width) of token vectors, one of which may come as (width,), or as one number."""
    return (1,) * (2 - len(shape)) + shape


def _lora(name: str, parts: Mapping[str, Shape]) -> ModuleShape:
    for part in ("down", "up"):
        if part not in parts:
            raise LoraFileInvalid(f"{name}: its {part} matrix is missing")
    down, up, mid = parts["down"], parts["up"], parts.get("mid")
    rank = down[0] if len(down) in (2, 4) else 0
    if rank < 1 or len(up) not in (2, 4) or up[1:] not in ((rank,), (rank, 1, 1)):
        raise LoraPairMismatch(
            f"{name}: down is {down} and up {up}; they must be (rank, in[, kh, kw]) and "
            f"(out, rank[, 1, 1])"
        )
    tucker = mid is not None and len(mid) == 4 and mid[:2] == (rank, rank)
    if mid is not None and not (tucker and math.prod(down[2:]) == 1):
        raise LoraPairMismatch(
            f"{name}: mid is {mid} and down {down}; they must be (rank, rank, kh, kw) and "
            f"(rank, in[, 1, 1])"
        )
    kernel = 1 if mid is None else math.prod(mid[2:])
    return ModuleShape(
        "locon" if len(down) == 4 else "lora",
        rank,
        up[0],
        math.prod(down[1:]) * kernel,
        _magnitudes(name, parts, rows=up[0], columns=down[1]),
    )


def _loha(name: str, parts: Mapping[str, Shape]) -> ModuleShape:
    _need(name, parts, _HADA)
    t1, t2 = parts.get("hada_t1"), parts.get("hada_t2")
    if (t1 is None) != (t2 is None):
        raise LoraFileInvalid(f"{name}: one of hada_t1 and hada_t2 is missing")
    w1_a, w1_b, w2_a, w2_b = (as_matrix(parts[part]) for part in _HADA)
    rows, inputs, kernel = _product(name, "hada_w1", w1_a, w1_b, t1)
    other = _product(name, "hada_w2", w2_a, w2_b, t2)
    if (rows, inputs, kernel) != other or w1_b[0] != w2_b[0]:
        raise LoraPairMismatch(
            f"{name}: the halves are of {(rows, inputs * kernel)} and "
            f"{(other[0], other[1] * other[2])}, of ranks {w1_b[0]} and {w2_b[0]}; they must be "
            f"alike"
        )
    # Without a core the kernel is one with the inputs, which the base alone can tell apart.
    columns = None if t1 is None else inputs
    scale = _magnitudes(name, parts, rows=rows, columns=columns)
    return ModuleShape("loha", w1_b[0], rows, inputs * kernel, scale)


def _lokr(name: str, parts: Mapping[str, Shape]) -> ModuleShape:
    for factor in ("lokr_w1", "lokr_w2"):
        halves = [f"{factor}{half}" for half in ("_a", "_b") if f"{factor}{half}" in parts]
        if (factor in parts) == bool(halves):
            raise LoraFileInvalid(
                f"{name}: it must have either {factor} or both {factor}_a and {factor}_b"
            )
        if halves:
            _need(name, parts, (f"{factor}_a", f"{factor}_b"))
    if "lokr_t2" in parts and "lokr_w2" in parts:
        raise LoraFileInvalid(f"{name}: it has both lokr_w2 and lokr_t2")
    rank, scaled = 1, False
    if whole := parts.get("lokr_w1"):
        _expect(name, "lokr_w1", whole, (2,), "(out₁, in₁)")
        rows, columns = whole[0], whole[1]
    else:
        a, b = parts["lokr_w1_a"], parts["lokr_w1_b"]
        rows, columns, _ = _product(name, "lokr_w1", a, b, None)
        rank, scaled = b[0], True
    if whole := parts.get("lokr_w2"):
        _expect(name, "lokr_w2", whole, (2, 4), "(out₂, in₂[, kh, kw])")
        below, beside, kernel = whole[0], whole[1], math.prod(whole[2:])
    else:
        a, b = parts["lokr_w2_a"], parts["lokr_w2_b"]
        below, beside, kernel = _product(name, "lokr_w2", a, b, parts.get("lokr_t2"))
        rank, scaled = b[0], True
    scale = _magnitudes(name, parts, rows=rows * below, columns=None)
    return ModuleShape("lokr", rank, rows * below, columns * beside * kernel, scale, scaled)


def _product(
    name: str, factor: str, a: Shape, b: Shape, core: Shape | None
) -> tuple[int, int, int]:
    """(out, in · kh · kw, 1), or of a Tucker product (out, in, kh · kw)."""
    shapes = f"{factor}_a is {a} and {factor}_b {b}"
    flat = len(a) == 2 and len(b) == 2
    if core is None:
        if not flat or a[1] != b[0]:
            raise LoraPairMismatch(f"{name}: {shapes}; they must be (out, rank) and (rank, in)")
        return a[0], b[1], 1
    if not flat or len(core) != 4 or a[0] != b[0] or core[:2] != (b[0], b[0]):
        raise LoraPairMismatch(
            f"{name}: {shapes}, the core {core}; they must be (rank, out), (rank, in) and "
            f"(rank, rank, kh, kw)"
        )
    return a[1], b[1], math.prod(core[2:])


def _magnitudes(
    name: str, parts: Mapping[str, Shape], *, rows: int, columns: int | None
) -> Shape | None:
    """DoRA's magnitudes, (rows, 1, …) or (1, columns, …); columns None: known to the base alone."""
    if (scale := parts.get("magnitude")) is not None:
        # PEFT: (out,) of a linear, (1, out, 1, 1) of a convolution, always by rows.
        if math.prod(scale) != rows or max(scale, default=0) != rows:
            raise LoraPairMismatch(
                f"{name}: lora_magnitude_vector is {scale}; it needs one value for each of {rows} "
                f"outputs"
            )
        return (rows, *[1] * max(len(scale) - 1, 1))
    scale = parts.get("dora_scale")
    if scale is None:
        return None
    shape = (*scale, 1) if len(scale) == 1 else scale
    by_rows = shape[:1] == (rows,) and math.prod(shape) == rows
    width = shape[1] if len(shape) > 1 else 0
    by_columns = math.prod(shape) == width > 0 and columns in (None, width)
    if not (by_rows or by_columns):
        wanted = "in" if columns is None else columns
        raise LoraPairMismatch(
            f"{name}: dora_scale is {scale}; it must be ({rows}, 1[, 1, 1]) or "
            f"(1, {wanted}[, 1, 1])"
        )
    return shape


def _need(name: str, parts: Mapping[str, Shape], needed: tuple[str, ...]) -> None:
    for part in needed:
        if part not in parts:
            raise LoraFileInvalid(f"{name}: its {part} is missing")


def _expect(name: str, part: str, shape: Shape, ndims: tuple[int, ...], wanted: str) -> None:
    if len(shape) not in ndims:
        raise LoraPairMismatch(f"{name}: {part} is {shape}; it must be {wanted}")
