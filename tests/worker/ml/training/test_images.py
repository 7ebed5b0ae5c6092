"""A picture comes upright, opaque and cropped into its bucket, and its framing tells the truth."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from worker.ml.training.cache import TensorCache
from worker.ml.training.errors import ImageBroken, LatentsNotFinite
from worker.ml.training.images import frame, load_image, to_pixels
from worker.ml.training.latents import encode_images
from worker.ml.training.spec import ImageSpec


def _saved(image, path, **options):
    image.save(path, **options)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def _spec(path, sha256, width, height):
    return ImageSpec(path=str(path), sha256=sha256, width=width, height=height, caption="")


@pytest.mark.parametrize(
    ("picture", "bucket", "resized", "crop"),
    [
        ((200, 100), (64, 64), (128, 64), (0, 32)),
        ((100, 200), (64, 64), (64, 128), (32, 0)),
        ((64, 64), (64, 64), (64, 64), (0, 0)),
        ((30, 30), (64, 64), (64, 64), (0, 0)),
        ((100, 90), (80, 48), (80, 72), (12, 0)),
    ],
)
def test_a_picture_covers_its_bucket_and_is_cropped_in_the_middle(picture, bucket, resized, crop):
    size, framing = frame(*picture, bucket)
    assert size == resized
    assert framing.time_ids == (picture[1], picture[0], *crop, bucket[1], bucket[0])


def test_the_crop_is_where_the_time_ids_say():
    image = Image.new("RGB", (200, 100))
    # Red left half, blue right half: the crop of the middle holds half of each.
    image.paste((255, 0, 0), (0, 0, 100, 100))
    image.paste((0, 0, 255), (100, 0, 200, 100))
    pixels, framing = to_pixels(image, (64, 64))
    assert pixels.shape == (3, 64, 64)
    assert framing.crop == (0, 32)
    assert float(pixels[0, 32, 10]) == 1.0
    assert float(pixels[0, 32, 53]) == -1.0
    assert float(pixels[2, 32, 53]) == 1.0


def test_exif_turns_a_picture_upright(tmp_path):
    image = Image.new("RGB", (20, 10), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    path, sha256 = _saved(image, tmp_path / "turned.jpg", exif=exif)
    assert load_image(path, sha256).size == (10, 20)


def test_transparent_parts_are_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    loaded = load_image(*_saved(image, tmp_path / "clear.png"))
    assert loaded.getpixel((0, 0)) == (255, 0, 0)
    assert loaded.getpixel((3, 3)) == (255, 255, 255)
    assert loaded.getpixel((1, 0)) == pytest.approx((127, 127, 127), abs=1)


def test_a_palette_with_a_transparent_colour_is_read(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 0])
    loaded = load_image(*_saved(image, tmp_path / "palette.png", transparency=0))
    assert loaded.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.getpixel((1, 0)) == (200, 100, 0)


def test_another_file_under_the_same_path_is_refused(tmp_path):
    path, _ = _saved(Image.new("RGB", (8, 8)), tmp_path / "changed.png")
    with pytest.raises(ImageBroken, match=r"changed\.png has another sha256"):
        load_image(path, "0" * 64)


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
        self.latents = pixels[:, :1, ::4, ::4].expand(-1, 4, -1, -1) * self.value
        return self

    @property
    def latent_dist(self):
        return self

    def mode(self):
        return self.latents


@pytest.fixture
def gradient(tmp_path):
    """A picture that is dark on the left and red on the right."""
    ramp = np.zeros((64, 64, 3), dtype=np.uint8)
    ramp[:, :, 0] = np.arange(64) * 4
    return _saved(Image.fromarray(ramp), tmp_path / "ramp.png")


def _encode(spec, vae, folder, **options):
    settings = {"flip": False, "vae_sha256": "v", **options}
    return encode_images(
        [spec],
        [(64, 64)],
        vae=lambda: vae,
        cache=TensorCache(folder),
        on_done=lambda _: None,
        **settings,
    )[0]


def test_mirrored_latents_are_those_of_the_mirrored_picture(gradient, tmp_path):
    image = _encode(_spec(*gradient, 64, 64), _Vae(), tmp_path / "cache", flip=True)
    assert image.variants.shape == (2, 4, 16, 16)
    assert image.time_ids == (64, 64, 0, 0, 64, 64)
    drawn, mirrored = image.variants[:, 0, 8]
    assert float(drawn[0]) < float(drawn[-1])
    assert float(mirrored[0]) > float(mirrored[-1])


def test_a_picture_is_encoded_once_for_each_vae(gradient, tmp_path):
    vae, spec, folder = _Vae(), _spec(*gradient, 64, 64), tmp_path / "cache"
    first = _encode(spec, vae, folder)
    again = _encode(spec, vae, folder)
    assert vae.encoded == 1
    assert torch.equal(first.variants, again.variants)
    _encode(spec, vae, folder, vae_sha256="another")
    assert vae.encoded == 2


def test_a_damaged_cache_file_is_made_again(gradient, tmp_path):
    vae, spec, folder = _Vae(), _spec(*gradient, 64, 64), tmp_path / "cache"
    first = _encode(spec, vae, folder)
    (stored,) = folder.rglob("*.safetensors")
    stored.write_bytes(stored.read_bytes()[:50])
    assert torch.equal(_encode(spec, vae, folder).variants, first.variants)
    assert vae.encoded == 2


def test_latents_that_are_not_finite_name_their_picture_and_are_not_kept(gradient, tmp_path):
    folder = tmp_path / "cache"
    with pytest.raises(LatentsNotFinite, match=r"ramp\.png"):
        _encode(_spec(*gradient, 64, 64), _Vae(float("inf")), folder)
    assert not list(folder.rglob("*.safetensors"))


def test_a_size_that_is_not_the_pictures_is_refused(gradient, tmp_path):
    with pytest.raises(ImageBroken, match=r"ramp\.png is 64x64; the spec says 64x32"):
        _encode(_spec(*gradient, 64, 32), _Vae(), Path(tmp_path / "cache"))
