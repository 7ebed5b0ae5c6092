"""A LoRA's pairs end to end in few pieces of memory, so that few copies bring all to a device.

A LoRA for SDXL has a thousand small matrices and more. Copied and converted one by one they keep
a GPU waiting for its host far longer than their bytes take.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor

from worker.ml.lora_files.modules import AdapterModule, LoraModule, with_tensors

# Down (rank, in · kh · kw) and up (out, rank).
Pair = tuple[Tensor, Tensor]
# Size, strides and beginning of a matrix in a longer piece of memory.
_Place = tuple[tuple[int, int], tuple[int, int], int]

_KEPT = {torch.float16, torch.bfloat16, torch.float32}
# Large enough for a bus at its full speed; a switch holds one piece of each LoRA on the device.
PIECE_BYTES = 32 * 1024**2


@dataclass(frozen=True)
class Piece:
    """The pairs of some modules, which stand side by side in the order of their paths.

    Attributes:
        flat: downs and ups, one after the other.
        places: where a module's down and up are in it.
    """

    flat: Tensor
    places: dict[str, tuple[_Place, _Place]]

    def on(self, device: torch.device) -> dict[str, Pair]:
        """All pairs there by path, in the format they are kept in."""
        there = self.flat.to(device, non_blocking=True)
        # One call for each: a slice and its shape would be two.
        return {
            path: (there.as_strided(*down), there.as_strided(*up))
            for path, (down, up) in self.places.items()
        }


def is_pair(module: AdapterModule) -> TypeGuard[LoraModule]:
    """Whether the change is one product of two matrices, whatever W0 is."""
    return isinstance(module, LoraModule) and module.mid is None and module.dora_scale is None


def pack(
    modules: Mapping[str, AdapterModule], *, pin: bool, piece_bytes: int = PIECE_BYTES
) -> tuple[dict[str, Piece], dict[str, AdapterModule]]:
    """Lay plain pairs end to end, those of each network apart.

    Args:
        modules: by canonical path, whose first part names the network.
        pin: whether in pinned memory, from which a copy need not be waited for.
        piece_bytes: a piece ends before it has more, unless its only pair does.

    Returns:
        The piece of each plain module, and all modules: matrices of plain ones are now views of
        their piece, others are as they were but for the kind of memory.
    """
    # In the order given; plain ones are replaced below.
    packed = {
        path: with_tensors(module, Tensor.pin_memory) if pin and not is_pair(module) else module
        for path, module in modules.items()
    }
    pieces: dict[str, Piece] = {}
    together: dict[str, LoraModule] = {}
    held = 0
    for path, module in sorted(modules.items()):
        if not is_pair(module):
            continue
        same = not together or _network(path) == _network(next(iter(together)))
        if together and (not same or held + module.nbytes > piece_bytes):
            _lay_end_to_end(together, pin, pieces, packed)
            together, held = {}, 0
        together[path] = module
        held += module.nbytes
    if together:
        _lay_end_to_end(together, pin, pieces, packed)
    return pieces, packed


def _network(path: str) -> str:
    return path.partition(".")[0]


def _lay_end_to_end(
    pairs: Mapping[str, LoraModule],
    pin: bool,
    pieces: dict[str, Piece],
    packed: dict[str, AdapterModule],
) -> None:
    """Make a piece of these, and note it and the views of it by path."""
    tensors = [each for module in pairs.values() for each in (module.down, module.up)]
    formats = {each.dtype for each in tensors}
    # What mixes, and formats that cannot be computed in, are kept in float32.
    dtype = formats.pop() if len(formats) == 1 and formats <= _KEPT else torch.float32
    flat = torch.empty(sum(each.numel() for each in tensors), dtype=dtype, pin_memory=pin)
    piece = Piece(flat, {})
    begin = 0
    for path, module in pairs.items():
        down, begin = _put(flat, begin, module.down)
        up, begin = _put(flat, begin, module.up)
        piece.places[path] = down, up
        pieces[path] = piece
        packed[path] = replace(
            module,
            down=flat.as_strided(*down).view(module.down.shape),
            up=flat.as_strided(*up).view(module.up.shape),
        )


def _put(flat: Tensor, begin: int, tensor: Tensor) -> tuple[_Place, int]:
    """Copy a tensor to its place, and say where the next one begins."""
    matrix = tensor.flatten(1)
    rows, columns = matrix.shape
    place = (rows, columns), (columns, 1), begin
    flat.as_strided(*place).copy_(matrix)
    return place, begin + rows * columns


class Uploads:
    """What a switch has on devices: of each LoRA the piece that was asked for last.

    Modules asked for in the order of their paths find each piece brought once.
    """

    def __init__(self) -> None:
        self._latest: dict[tuple[str, torch.device], tuple[Piece, dict[str, Pair]]] = {}
        self._factors: dict[tuple[tuple[tuple[float, int], ...], torch.device], Tensor] = {}

    def pair(self, sha256: str, piece: Piece, path: str, device: torch.device) -> Pair:
        """One module's pair of a LoRA; brings all of its piece."""
        key = sha256, device
        if key not in self._latest or self._latest[key][0] is not piece:
            # Let go first, so that its memory is there for the next.
            self._latest.pop(key, None)
            self._latest[key] = piece, piece.on(device)
        return self._latest[key][1][path]

    def factors(self, ranks: Sequence[tuple[float, int]], device: torch.device) -> Tensor:
        """Each factor as often as its rank says, float32."""
        key = tuple(ranks), device
        if key not in self._factors:
            values = [factor for factor, rank in ranks for _ in range(rank)]
            self._factors[key] = torch.tensor(values, dtype=torch.float32, device=device)
        return self._factors[key]
