"""Memory runs out all the same: less is drawn at once, and what can be given up is."""

import numpy as np
import pytest
import torch

from worker.ml.inference import generate as module
from worker.ml.inference.errors import OutOfMemory
from worker.ml.inference.generate import Generation, Watch, generate, generate_many


def draw(handle, spec):
    found = generate(handle, spec, lambda *_: None, lambda: False)
    return [np.asarray(image.image, dtype=float) for image in found.images]


@pytest.fixture
def room(monkeypatch, handle):
    """A device that holds so many rows of the UNet, and no VAE that is not tiled if so told."""
    limits = {"rows": 8, "whole_vae": True}
    tried = []
    denoise, decode = module.denoise, module.decode_latents

    def narrow(handle, batch, on_step):
        tried.append(len(batch.rows))
        if len(batch.rows) > limits["rows"]:
            raise torch.OutOfMemoryError("no more memory")
        return denoise(handle, batch, on_step)

    def low(handle, latents):
        if not limits["whole_vae"] and not handle.base.vae.use_tiling:
            raise torch.OutOfMemoryError("no more memory")
        return decode(handle, latents)

    monkeypatch.setattr(module, "denoise", narrow)
    monkeypatch.setattr(module, "decode_latents", low)
    yield limits, tried
    handle.residency.settle("resident")
    handle.base.vae.use_tiling = False


def test_a_batch_that_is_too_large_is_halved_until_it_fits(handle, make_spec, room):
    limits, tried = room
    spec = make_spec(seeds=(1, 2, 3, 4, 5))
    expected = draw(handle, spec)
    tried.clear()
    limits["rows"] = 2
    found = draw(handle, spec)
    assert tried == [5, 2, 3, 1, 2]
    # Another size of batch rounds otherwise.
    assert all(np.abs(a - b).max() <= 3 for a, b in zip(found, expected, strict=True))


def test_one_picture_is_tried_the_thriftiest_way(handle, make_spec, room):
    limits, tried = room
    limits["whole_vae"] = False
    draw(handle, make_spec())
    assert tried == [1, 1]
    assert handle.residency.placement == "one_at_a_time"
    assert handle.base.vae.use_tiling


def test_a_picture_that_does_not_fit_at_all_is_told_and_the_others_are_drawn(
    handle, make_spec, room, monkeypatch
):
    limits, _ = room
    limits["rows"] = 0
    with pytest.raises(OutOfMemory, match="one picture of 64×64 does not fit the device"):
        draw(handle, make_spec())
    denoise = module.denoise

    def small_only(handle, batch, on_step):
        limits["rows"] = 0 if batch.rows[0].prepared.spec.width > 64 else 8
        return denoise(handle, batch, on_step)

    monkeypatch.setattr(module, "denoise", small_only)
    # More than one batch of it, of which the second is not begun.
    specs = [make_spec(width=128, height=128, seeds=tuple(range(10))), make_spec()]
    watches = [Watch(lambda *_: None, lambda: False) for _ in specs]
    ended = list(generate_many(handle, specs, watches))
    assert len(ended) == 2
    outcomes = dict(ended)
    assert isinstance(outcomes[0], OutOfMemory)
    assert isinstance(outcomes[1], Generation)
