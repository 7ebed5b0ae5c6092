"""Two hundred large pictures are prepared with two batches of pixels in memory, and no more."""

import gc
import hashlib
import multiprocessing
import resource
import weakref
from concurrent.futures import ProcessPoolExecutor
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


def thin_vae():
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


def test_two_hundred_pictures_never_hold_more_than_two_batches(wanted, tmp_path, monkeypatch):
    # In a process of its own, whose large blocks are the system's again as soon as they are free:
    # what other tests and the allocator keep is not what preparing needs.
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(2**23))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        most, left, grown = process.submit(_prepare, wanted, tmp_path / "cache").result()
    print(f"{most / BATCH_BYTES:.0f} batches of {BATCH} pictures; {grown / 2**20:.0f} MiB more")
    # One is encoded while the next is decoded.
    assert most == 2 * BATCH_BYTES
    assert left == 0
    # Pixels of all would be 2.3 GiB; whenever a batch is done, no more than two are held, nor as
    # much again of all else.
    assert grown < 4 * BATCH_BYTES


def _prepare(wanted, folder):
    """Most bytes of pixels alive at once, those left at the end, and growth of the process."""
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

    latents._Pixels = counted
    # What torch keeps depends on the number of threads.
    torch.set_num_threads(2)
    vae = thin_vae()
    gc.collect()
    before = _resident_bytes()
    sizes = []
    cache = TensorCache(folder)
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
    return most, alive, max(sizes) - before


def _resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
