"""A picture comes upright, in sRGB, opaque and cropped, and its framing tells the truth."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from worker.ml.training.data.images import Picture, frame, load_image, load_mask, to_pixels
from worker.ml.training.errors import ImageBroken


def _saved(image, path, **options):
    image.save(path, **options)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


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
    pixels, mask, framing = to_pixels(Picture(image), (64, 64))
    assert mask is None
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
    assert load_image(path, sha256).rgb.size == (10, 20)


def test_transparent_parts_are_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    loaded = load_image(*_saved(image, tmp_path / "clear.png"))
    assert loaded.rgb.getpixel((0, 0)) == (255, 0, 0)
    assert loaded.rgb.getpixel((3, 3)) == (255, 255, 255)
    assert loaded.rgb.getpixel((1, 0)) == pytest.approx((127, 127, 127), abs=1)


def test_a_palette_with_a_transparent_colour_is_read(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 0])
    loaded = load_image(*_saved(image, tmp_path / "palette.png", transparency=0))
    assert loaded.rgb.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.rgb.getpixel((1, 0)) == (200, 100, 0)


def test_another_file_under_the_same_path_is_refused(tmp_path):
    path, _ = _saved(Image.new("RGB", (8, 8)), tmp_path / "changed.png")
    with pytest.raises(ImageBroken, match=r"changed\.png has another sha256"):
        load_image(path, "0" * 64)


def test_a_crop_lies_where_it_is_placed_and_its_mirror_image_where_that_is():
    image = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (100, 1))).convert("RGB")
    pixels, _, framing = to_pixels(Picture(image), (64, 64), (0.25, 0.9))
    assert framing.crop == (0, 16)
    assert framing.mirrored.crop == (0, 128 - 64 - 16)
    mirrored, _, again = to_pixels(
        Picture(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), (64, 64), (0.75, 0.9)
    )
    assert again.crop == framing.mirrored.crop
    assert torch.allclose(mirrored, pixels.flip(-1), atol=0.02)


def test_the_background_is_chosen_and_transparency_may_be_the_mask(tmp_path):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    saved = _saved(image, tmp_path / "clear.png")
    loaded = load_image(*saved, background="#0000ff", alpha_mask=True)
    assert loaded.rgb.getpixel((3, 3)) == (0, 0, 255)
    assert loaded.mask.getpixel((0, 0)) == 255
    assert loaded.mask.getpixel((3, 3)) == 0
    assert load_image(*saved).mask is None


def test_a_mask_is_cropped_as_its_picture_is(tmp_path):
    mask = Image.new("L", (100, 50), 0)
    mask.paste(255, (0, 0, 50, 50))
    grey = load_mask(*_saved(mask, tmp_path / "mask.png"), (200, 100))
    assert grey.size == (200, 100)
    _, cropped, _ = to_pixels(Picture(Image.new("RGB", (200, 100)), grey), (64, 64))
    assert cropped.shape == (1, 64, 64)
    assert float(cropped[0, 32, 5]) == 1.0
    assert float(cropped[0, 32, 60]) == 0.0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_another_profile_are_brought_to_srgb(tmp_path, mode):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    plain = Image.new("RGB", (4, 4), (200, 60, 30)).convert(mode, palette=Image.Palette.ADAPTIVE)
    same = load_image(*_saved(plain, tmp_path / "same.png", icc_profile=profile.tobytes()))
    assert same.rgb.getpixel((0, 0)) == pytest.approx((200, 60, 30), abs=6)
    # A profile whose red and green are exchanged.
    swapped = _swap_red_and_green(profile.tobytes())
    turned = load_image(*_saved(plain, tmp_path / "turned.png", icc_profile=swapped))
    red, green, _ = turned.rgb.getpixel((0, 0))
    assert green > red


def _swap_red_and_green(profile):
    """Exchange the two colorants in an ICC profile's table of tags."""
    return profile.replace(b"rXYZ", b"xxxx").replace(b"gXYZ", b"rXYZ").replace(b"xxxx", b"gXYZ")


def test_a_broken_profile_is_passed_over(tmp_path):
    image = Image.new("RGB", (4, 4), (200, 60, 30))
    loaded = load_image(*_saved(image, tmp_path / "odd.png", icc_profile=b"not a profile"))
    assert loaded.rgb.getpixel((0, 0)) == (200, 60, 30)
