"""Pictures are told from junk, measured as they are seen, and have the captions beside them."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from worker.ml.training.errors import SpecInvalid
from worker.ml.training.shell.folders import (
    PictureUnfit,
    measure,
    pictures_in,
    repeats_and_class,
)

EXAMPLES = Path(__file__).parents[5] / "examples"


class Heard(list[str]):
    """What a person was told."""

    def about(self, word: str) -> list[str]:
        return [line for line in self if word in line]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def riso(tmp_path):
    """Two captioned pictures."""
    folder = tmp_path / "riso"
    folder.mkdir()
    for name in ("bear.png", "bear.txt", "lion.png", "lion.txt"):
        shutil.copy(EXAMPLES / "riso-style" / name, folder)
    return folder


def test_each_piece_of_junk_costs_one_warning_with_its_reason(riso, heard):
    (riso / "__MACOSX").mkdir()
    (riso / ".DS_Store").write_bytes(b"\0")
    (riso / "Thumbs.db").write_bytes(b"\0")
    (riso / "._bear.png").write_bytes(b"\0")
    (riso / "empty.png").touch()
    (riso / "cut.png").write_bytes((riso / "bear.png").read_bytes()[:-400])
    (riso / "letter.jpg").write_text("Dear all")
    (riso / "notes.pdf").write_text("notes")
    (riso / "older").mkdir()
    (riso / "link.png").symlink_to(riso / "gone.png")
    os.mkfifo(riso / "pipe.png")
    (riso / os.fsdecode(b"\xe9.png")).write_bytes((riso / "bear.png").read_bytes())
    found = pictures_in(riso, heard.append, heard.append)
    assert [picture.path.name for picture in found] == ["bear.png", "lion.png"]
    for name, reason in (
        ("__MACOSX", "desktop"),
        (".DS_Store", "desktop"),
        ("Thumbs.db", "desktop"),
        ("._bear.png", "desktop"),
        ("empty.png", "empty"),
        ("cut.png", "truncated"),
        ("letter.jpg", "cannot identify"),
        ("notes.pdf", "not a picture"),
        ("older", "folders in it stay shut"),
        ("link.png", "no file"),
        ("pipe.png", "no file"),
        ("\udce9.png", "not UTF-8"),
    ):
        lines = heard.about(f"{name} ")
        assert len(lines) == 1, name
        assert reason in lines[0]
    assert not any("BytesIO" in line for line in heard)


def test_captions_and_the_caches_of_sd_scripts_are_no_junk(riso, heard):
    for name in ("bear_0064x0064_sdxl.npz", "metadata_cache.json", "lion.caption"):
        (riso / name).write_text("a lion")
    pictures_in(riso, heard.append, heard.append)
    assert heard == []


def test_a_caption_of_no_picture_is_named(riso, heard):
    (riso / "tiger.txt").write_text("a tiger")
    pictures_in(riso, heard.append, heard.append)
    assert heard.about("tiger.txt is skipped")


def test_size_is_that_after_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.jpg"
    Image.new("RGB", (40, 20), "red").save(path, exif=exif)
    picture = measure(path)
    assert (picture.width, picture.height) == (20, 40)
    assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_picture_under_a_wrong_ending_is_still_one(riso):
    (riso / "bear.png").rename(riso / "bear.JPG")
    assert measure(riso / "bear.JPG").width > 0


def test_a_picture_of_a_kind_that_the_service_refuses_is_refused_here_too(riso):
    with Image.open(riso / "bear.png") as image:
        image.convert("P").save(riso / "bear2.png", format="GIF")
    with pytest.raises(PictureUnfit, match="does not decode"):
        measure(riso / "bear2.png")


def test_the_same_bytes_twice_are_told_and_kept(riso, heard):
    shutil.copy(riso / "bear.png", riso / "copy.png")
    found = pictures_in(riso, heard.append, heard.append)
    assert len(found) == 3
    assert heard.about("copy.png is the same picture as bear.png")


def test_txt_captions_count_where_there_is_no_caption_file(riso, heard):
    found = pictures_in(riso, heard.append, heard.append)
    assert found[0].caption == (riso / "bear.txt").read_text()
    assert heard == ["riso has no .caption files: its .txt files are read"]


def test_caption_files_go_before_txt(riso, heard):
    (riso / "bear.caption").write_text("the other words")
    found = pictures_in(riso, heard.append, heard.append)
    assert [picture.caption for picture in found] == ["the other words", None]


def test_a_named_extension_is_the_only_one(riso, heard):
    (riso / "bear_long.tags").write_text("no caption")
    (riso / "bear.tags").write_text("\ufeffby tags")
    found = pictures_in(riso, heard.append, heard.append, ".tags")
    assert [picture.caption for picture in found] == ["by tags", None]
    assert heard.about("bear_long.tags is skipped")


def test_an_empty_caption_is_told_and_counts_as_none(riso, heard):
    (riso / "bear.txt").write_text(" \n")
    assert pictures_in(riso, heard.append, heard.append)[0].caption is None
    assert heard.about("bear.txt is empty")


def test_a_caption_in_another_encoding_is_named(riso, heard):
    (riso / "bear.txt").write_bytes("ein Bär".encode("latin-1"))
    with pytest.raises(SpecInvalid, match=r"bear\.txt is no caption in UTF-8"):
        pictures_in(riso, heard.append, heard.append)


def test_a_missing_folder_is_named(tmp_path, heard):
    with pytest.raises(SpecInvalid, match="nowhere cannot be read: No such file"):
        pictures_in(tmp_path / "nowhere", heard.append, heard.append)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("10_sks dog", (10, "sks dog")),
        ("3_a_b", (3, "a_b")),
        ("0_out", (0, "out")),
        ("7_", (7, "")),
        ("dogs", None),
        ("x10_dog", None),
        ("10", None),
    ],
)
def test_kohyas_names_say_repeats_and_class(name, said):
    assert repeats_and_class(name) == said
