"""A LoRA's pairs in one piece of memory are the same matrices, whatever format they came in."""

from dataclasses import replace

import pytest
import torch

from worker.ml.inference.packed import Piece, Uploads, pack
from worker.ml.lora_files.modules import LoraModule

CPU = torch.device("cpu")


def _module(dtype=torch.float16, rank=3, out=8, inputs=5, kernel=()):
    down = torch.randn(rank, inputs, *kernel).to(dtype)
    up = torch.randn(out, rank, *[1] * len(kernel)).to(dtype)
    return LoraModule(down, up, 2.0)


def test_pairs_lie_end_to_end_and_modules_are_views_of_them():
    modules = {
        "unet.b": _module(kernel=(3, 3)),
        "unet.a": _module(),
        "text_encoder.c": _module(rank=2),
    }
    pieces, packed = pack(modules, pin=False)
    assert list(packed) == list(modules)
    assert pieces["unet.a"] is pieces["unet.b"]
    assert pieces["unet.a"] is not pieces["text_encoder.c"]
    for path, module in modules.items():
        own, flat = packed[path], pieces[path].flat
        assert torch.equal(own.down, module.down)
        assert torch.equal(own.up, module.up)
        assert own.down.dtype == torch.float16
        assert own.down.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
        down, up = Uploads().pair("a", pieces[path], path, CPU)
        assert torch.equal(down, module.down.flatten(1))
        assert torch.equal(up, module.up.flatten(1))
    # Not a byte more than the matrices have.
    flats = {id(piece): piece.flat for piece in pieces.values()}
    assert sum(flat.nbytes for flat in flats.values()) == sum(
        module.nbytes for module in modules.values()
    )


def test_a_piece_ends_before_it_is_too_large_and_follows_the_order_of_paths():
    modules = {f"unet.{number}": _module() for number in (3, 1, 0, 2)}
    each = modules["unet.0"].nbytes
    pieces, _ = pack(modules, pin=False, piece_bytes=2 * each)
    assert [list(pieces[f"unet.{n}"].places) for n in (0, 2)] == [
        ["unet.0", "unet.1"],
        ["unet.2", "unet.3"],
    ]
    pieces, _ = pack(modules, pin=False, piece_bytes=1)
    assert [list(piece.places) for _, piece in sorted(pieces.items())] == [
        [path] for path in sorted(modules)
    ]


@pytest.mark.parametrize(
    "formats",
    [(torch.float8_e4m3fn,), (torch.float64,), (torch.float16, torch.bfloat16)],
    ids=["fp8", "fp64", "mixed"],
)
def test_formats_that_do_not_compute_together_become_float32(formats):
    modules = {f"unet.{number}": _module(each) for number, each in enumerate(formats)}
    pieces, packed = pack(modules, pin=False)
    assert pieces["unet.0"].flat.dtype == torch.float32
    for path, module in modules.items():
        assert torch.equal(packed[path].up, module.up.float())


def test_what_is_no_plain_pair_stays_as_it_is():
    dora = replace(_module(), dora_scale=torch.ones(8, 1))
    pieces, packed = pack({"unet.a": dora}, pin=False)
    assert pieces == {}
    assert packed["unet.a"] is dora


def test_a_piece_is_brought_once_and_makes_room_for_the_next(monkeypatch):
    modules = {f"unet.{number}": _module() for number in range(4)}
    pieces, _ = pack(modules, pin=False, piece_bytes=2 * modules["unet.0"].nbytes)
    brought = []
    real = Piece.on
    monkeypatch.setattr(
        Piece, "on", lambda self, device: brought.append(self) or real(self, device)
    )
    uploads = Uploads()
    for sha256 in ("a", "b"):
        for path in sorted(modules):
            uploads.pair(sha256, pieces[path], path, CPU)
    assert brought == [pieces["unet.0"], pieces["unet.2"]] * 2
    uploads.pair("a", pieces["unet.0"], "unet.0", CPU)
    assert len(brought) == 5


def test_a_factor_stands_as_often_as_its_rank():
    uploads = Uploads()
    factors = uploads.factors([(0.5, 2), (-1.0, 1)], CPU)
    assert factors.tolist() == [0.5, 0.5, -1.0]
    assert uploads.factors([(0.5, 2), (-1.0, 1)], CPU) is factors
