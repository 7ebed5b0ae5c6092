"""Latents are made once, of every crop, mirror image and sample, and survive what disks do."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from app.trainings.params import TrainingParams
from worker.ml.training.data import latents
from worker.ml.training.data.cache import TensorCache
from worker.ml.training.data.latents import LatentStore, Wanted, encode_images
from worker.ml.training.errors import ImageBroken, LatentsNotFinite
from worker.ml.training.parallel import Group
from worker.ml.training.spec import ImageSpec

HERE = torch.device("cpu")


def _spec(path, width=64, height=64, **more):
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return ImageSpec(path=str(path), sha256=sha256, width=width, height=height, caption="", **more)


class _Vae:
    """Counts what it encodes; its latents are the red channel, every fourth pixel."""

    device = torch.device("cpu")
    dtype = torch.float32

    class config:
        scaling_factor = 0.5

    def __init__(self, value=1.0):
        self.encoded, self.value = 0, value

    def encode(self, pixels):
        self.encoded += len(pixels)
        self.mean = pixels[:, :1, ::4, ::4].expand(-1, 4, -1, -1) * self.value
        self.std = torch.full_like(self.mean, 0.1)
        return self

    @property
    def latent_dist(self):
        return self


@pytest.fixture
def gradient(tmp_path):
    """A wide picture that is dark on the left and red on the right."""
    ramp = np.zeros((64, 128, 3), dtype=np.uint8)
    ramp[:, :, 0] = np.arange(128) * 2
    path = tmp_path / "ramp.png"
    Image.fromarray(ramp).save(path)
    return path


def _encode(spec, vae, folder, params=None, key="v"):
    cache = TensorCache(folder)
    wanted = [Wanted.of(spec, (64, 64), params or TrainingParams())]
    keys = encode_images(
        wanted,
        vae=lambda: vae,
        vae_sha256=key,
        cache=cache,
        group=Group(),
        on_done=lambda _: None,
    )
    return LatentStore(cache, keys, HERE)[0]


def test_the_mean_of_the_centre_crop_is_what_is_made_by_default(gradient, tmp_path):
    image = _encode(_spec(gradient, 128), _Vae(), tmp_path / "cache")
    assert image.variants.shape == (1, 4, 16, 16)
    assert image.time_ids.tolist() == [[64, 128, 0, 32, 64, 64]]
    assert image.masks is None


def test_mirrored_latents_are_those_of_the_mirrored_picture(gradient, tmp_path):
    params = TrainingParams(flip_augment=True)
    image = _encode(_spec(gradient, 128), _Vae(), tmp_path / "cache", params)
    drawn, mirrored = image.variants[:, 0, 8]
    assert float(drawn[0]) < float(drawn[-1])
    assert torch.allclose(mirrored, drawn.flip(-1), atol=0.1)


def test_random_crops_say_where_they_lie_and_are_the_same_for_every_training(gradient, tmp_path):
    params = TrainingParams(random_crop=True, crop_variants=5, flip_augment=True)
    image = _encode(_spec(gradient, 128), _Vae(), tmp_path / "one", params)
    lefts = image.time_ids[:, 3]
    assert len(set(lefts[::2].tolist())) > 2
    assert torch.equal(lefts[::2] + lefts[1::2], torch.full((5,), 64))
    # The red at a crop's left edge is its place in the ramp.
    for latent, left in zip(image.variants[::2], lefts[::2], strict=True):
        red = (float(latent[0, 8, 0]) / 0.5 + 1) * 127.5
        assert red == pytest.approx(2 * int(left), abs=4)
    fewer = TrainingParams(random_crop=True, crop_variants=2, flip_augment=True)
    again = _encode(_spec(gradient, 128), _Vae(), tmp_path / "two", fewer)
    assert torch.equal(again.variants, image.variants[:4])


def test_samples_of_the_posterior_spread_around_its_mean(gradient, tmp_path):
    spec = _spec(gradient, 128)
    mean = _encode(spec, _Vae(), tmp_path / "mean").variants
    drawn = _encode(spec, _Vae(), tmp_path / "drawn", TrainingParams(latent_samples=16))
    assert drawn.variants.shape == (16, 4, 16, 16)
    assert drawn.time_ids.shape == (16, 6)
    # 0.1, times the VAE's factor.
    assert float((drawn.variants - mean).std()) == pytest.approx(0.05, rel=0.05)


def test_masks_come_at_the_latents_size_for_every_variant(gradient, tmp_path):
    mask = Image.new("L", (128, 64), 0)
    mask.paste(255, (64, 0, 128, 64))
    mask.save(tmp_path / "mask.png")
    sha256 = hashlib.sha256((tmp_path / "mask.png").read_bytes()).hexdigest()
    spec = _spec(gradient, 128, mask_path=str(tmp_path / "mask.png"), mask_sha256=sha256)
    params = TrainingParams(flip_augment=True, latent_samples=2)
    image = _encode(spec, _Vae(), tmp_path / "cache", params)
    assert image.masks.shape == (4, 1, 16, 16)
    assert image.masks[0, 0, 8, [0, 15]].tolist() == [0, 1]
    assert image.masks[2, 0, 8, [0, 15]].tolist() == [1, 0]


def test_a_picture_is_encoded_once_for_each_vae_and_way(gradient, tmp_path):
    vae, spec, folder = _Vae(), _spec(gradient, 128), tmp_path / "cache"
    first = _encode(spec, vae, folder)
    again = _encode(spec, vae, folder)
    assert vae.encoded == 1
    assert torch.equal(first.variants, again.variants)
    _encode(spec, vae, folder, key="another")
    assert vae.encoded == 2
    _encode(spec, vae, folder, TrainingParams(background="#000000"))
    assert vae.encoded == 3


def test_a_damaged_cache_file_is_made_again(gradient, tmp_path):
    vae, spec, folder = _Vae(), _spec(gradient, 128), tmp_path / "cache"
    first = _encode(spec, vae, folder)
    (stored,) = folder.rglob("*.safetensors")
    stored.write_bytes(stored.read_bytes()[:50])
    assert torch.equal(_encode(spec, vae, folder).variants, first.variants)
    assert vae.encoded == 2


def test_what_is_cached_stays_whoever_makes_it_again(tmp_path):
    cache = TensorCache(tmp_path)
    cache.put("ab", {"latents": torch.zeros(2)})
    cache.put("ab", {"latents": torch.ones(2)})
    assert cache.get("ab")["latents"].tolist() == [0, 0]
    assert [path.name for path in tmp_path.rglob("*.*")] == ["ab.safetensors"]


def test_batch_mates_are_the_same_after_a_stop_half_way(tmp_path, monkeypatch):
    """A picture's last bits depend on its batch, so a batch is made whole or not at all."""
    monkeypatch.setattr(latents, "ENCODE_PIXELS", 3 * 64 * 64)
    wanted = []
    for number in range(7):
        Image.new("RGB", (64, 64), (number * 30, 0, 0)).save(tmp_path / f"{number}.png")
        wanted.append(Wanted.of(_spec(tmp_path / f"{number}.png"), (64, 64), TrainingParams()))
    seen = []

    class Recording(_Vae):
        def encode(self, pixels):
            seen.append([float(each[0, 0, 0]) for each in pixels])
            return super().encode(pixels)

    def encode(folder):
        return encode_images(
            wanted,
            vae=Recording,
            vae_sha256="v",
            cache=TensorCache(folder),
            group=Group(),
            on_done=lambda _: None,
        )

    keys = encode(tmp_path / "cache")
    whole = list(seen)
    assert [len(batch) for batch in whole] == [3, 3, 1]
    (tmp_path / "cache" / keys[4][:2] / f"{keys[4]}.safetensors").unlink()
    seen.clear()
    encode(tmp_path / "cache")
    assert seen == [whole[1]]


def test_latents_that_are_not_finite_name_their_picture_and_are_not_kept(gradient, tmp_path):
    folder = tmp_path / "cache"
    with pytest.raises(LatentsNotFinite, match=r"ramp\.png"):
        _encode(_spec(gradient, 128), _Vae(float("inf")), folder)
    assert not list(folder.rglob("*.safetensors"))


def test_a_size_that_is_not_the_pictures_is_refused(gradient, tmp_path):
    with pytest.raises(ImageBroken, match=r"ramp\.png is 128x64; the spec says 64x32"):
        _encode(_spec(gradient, 64, 32), _Vae(), tmp_path / "cache")
