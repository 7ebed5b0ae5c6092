"""Two hundred large pictures are prepared with two batches of pixels in memory, and no more."""

import gc
import hashlib
import resource
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from app.trainings.params import TrainingParams
from worker.ml.training.data import latents
from worker.ml.training.data.cache import TensorCache
from worker.ml.training.data.latents import ENCODE_PIXELS, Wanted, encode_images
from worker.ml.training.parallel import Group
from worker.ml.training.spec import ImageSpec

PICTURES = 200
SIDE = 1024
BATCH = ENCODE_PIXELS // SIDE**2
BATCH_BYTES = BATCH * 3 * SIDE * SIDE * 4


@pytest.fixture
def vae():
    """A true VAE of SDXL's eightfold reduction, thin enough for two hundred pictures."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(2, 2, 2, 2),
        layers_per_block=1,
        norm_num_groups=1,
        mid_block_add_attention=False,
    ).eval()


@pytest.fixture
def wanted(tmp_path):
    """Pictures of 1024² as JPEG files, no two alike."""
    found = []
    ramp = np.linspace(0, 255, SIDE, dtype=np.uint8)
    for number in range(PICTURES):
        array = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        array[..., 0], array[..., 1], array[..., 2] = ramp, ramp[:, None], number
        path = tmp_path / f"{number:03}.jpg"
        Image.fromarray(array).save(path, quality=60)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        image = ImageSpec(path=str(path), sha256=sha256, width=SIDE, height=SIDE, caption="")
        found.append(Wanted.of(image, (SIDE, SIDE), TrainingParams()))
    return found


@pytest.fixture
def two_threads():
    """What the allocator keeps depends on the number of threads, which the bound is for."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_two_hundred_pictures_never_hold_more_than_two_batches(wanted, vae, tmp_path, monkeypatch):
    alive, most = 0, 0
    made = latents._Pixels

    def counted(batch, framings):
        nonlocal alive, most
        alive += batch.nbytes
        most = max(most, alive)

        def gone(size=batch.nbytes):
            nonlocal alive
            alive -= size

        weakref.finalize(batch.untyped_storage(), gone)
        return made(batch, framings)

    monkeypatch.setattr(latents, "_Pixels", counted)
    gc.collect()
    before = _resident_bytes()
    sizes = []
    cache = TensorCache(tmp_path / "cache")
    keys = encode_images(
        wanted,
        vae=lambda: vae,
        vae_sha256="v",
        cache=cache,
        group=Group(),
        on_done=lambda _: sizes.append(_resident_bytes()),
    )
    assert len(keys) == PICTURES
    assert all(cache.has(key) for key in keys)
    assert cache.get(keys[7])["latents"].shape == (1, 4, SIDE // 8, SIDE // 8)
    grown = max(sizes) - before
    print(f"{most / BATCH_BYTES:.0f} batches of {BATCH} pictures; {grown / 2**20:.0f} MiB more")
    # One is encoded while the next is decoded.
    assert most == 2 * BATCH_BYTES
    assert alive == 0
    # Pixels of all would be 2.3 GiB; beside two batches there is what the allocator keeps of the
    # VAE's activations.
    assert grown < 8 * BATCH_BYTES


def _resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
