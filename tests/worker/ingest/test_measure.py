"""What is measured of a picture, on pictures made to have it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from worker.ingest.measure import measure


def drawing(seed: int, side: int = 512) -> Image.Image:
    """Filled shapes and fine lines on a gradient: edges everywhere, like a picture has."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(40, 200, side, dtype=np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (side, 1))] * 3, axis=2))
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y = random.integers(0, side, 2)
        size = int(random.integers(8, side // 4))
        colour = tuple(int(c) for c in random.integers(0, 255, 3))
        draw.ellipse([x, y, x + size, y + size], fill=colour)
        draw.line([x, y, *random.integers(0, side, 2)], fill=colour, width=1)
    return image


def measured(tmp_path: Path, image: Image.Image, name: str = "a.png", **how: Any) -> dict[str, Any]:
    path = tmp_path / name
    image.save(path, **how)
    return measure(path)


def bits_apart(one: dict[str, Any], other: dict[str, Any]) -> int:
    return (int(one["dhash"], 16) ^ int(other["dhash"], 16)).bit_count()


@pytest.mark.parametrize("seed", range(5))
def test_the_same_picture_smaller_and_compressed_has_nearly_the_same_hash(
    tmp_path: Path, seed: int
) -> None:
    whole = measured(tmp_path, drawing(seed))
    smaller = measured(tmp_path, drawing(seed).resize((300, 300)), "b.jpg", quality=60)
    other = measured(tmp_path, drawing(seed + 100), "c.png")
    assert bits_apart(whole, smaller) <= 6
    assert bits_apart(whole, other) > 20


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("filter_", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_an_enlarged_picture_has_no_detail_of_its_size(
    tmp_path: Path, seed: int, filter_: Image.Resampling
) -> None:
    own = drawing(seed, 256)
    assert measured(tmp_path, own)["detail"] == 1.0
    assert measured(tmp_path, own.resize((1024, 1024), filter_))["detail"] < 1.0


def test_a_blurred_background_behind_something_sharp_is_no_lack_of_detail(tmp_path: Path) -> None:
    image = drawing(1, 1024).filter(ImageFilter.GaussianBlur(12))
    image.paste(drawing(2, 256), (384, 384))
    assert measured(tmp_path, image)["detail"] == 1.0


def test_a_blurred_picture_is_less_sharp(tmp_path: Path) -> None:
    sharp = measured(tmp_path, drawing(1))["sharpness"]
    blurred = measured(tmp_path, drawing(1).filter(ImageFilter.GaussianBlur(6)))["sharpness"]
    assert sharp > 100
    assert blurred < 20


def test_a_flat_or_tiny_picture_is_measured_too(tmp_path: Path) -> None:
    for size in ((1, 1), (3, 500), (16, 16), (2000, 17)):
        found = measured(tmp_path, Image.new("RGB", size, "grey"))
        assert found["detail"] == 1.0
        assert found["sharpness"] == 0.0


def test_transparency_and_orientation_are_seen(tmp_path: Path) -> None:
    clear = drawing(1).convert("RGBA")
    assert measured(tmp_path, clear)["transparent"] is False
    clear.putpixel((0, 0), (0, 0, 0, 0))
    assert measured(tmp_path, clear)["transparent"] is True
    exif = Image.Exif()
    exif[0x0112] = 6
    assert measured(tmp_path, drawing(1), "a.jpg", exif=exif)["oriented"] is True
    assert measured(tmp_path, drawing(1), "b.jpg")["oriented"] is False


def test_a_transparent_picture_is_seen_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert measured(tmp_path, clear)["brightness"] == 1.0


def test_what_the_decoder_complains_of_is_told(tmp_path: Path) -> None:
    import struct

    path = tmp_path / "a.jpg"
    drawing(1).save(path)
    data = path.read_bytes()
    # EXIF that announces an entry beyond its end.
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x010F, 2, 5000, 9000)
    marker = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    path.write_bytes(data[:2] + marker + data[2:])
    assert measure(path)["problems"]
