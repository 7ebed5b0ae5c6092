"""The sheet has its labels, its pictures in their places, and the size they need."""

from pathlib import Path

import pytest
from PIL import Image

from app.sheet import SheetRow, draw_sheet

COLORS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


def _picture(tmp_path: Path, color: str) -> Path:
    path = tmp_path / f"{color}.png"
    Image.new("RGB", (64, 64), COLORS[color]).save(path)
    return path


def test_every_picture_is_drawn_enlarged_in_its_own_cell(tmp_path: Path) -> None:
    red, blue = _picture(tmp_path, "red"), _picture(tmp_path, "blue")
    rows = [SheetRow("base model", [red, blue]), SheetRow("ink 0.7\n+ riso 0.7", [blue, blue])]
    sheet = draw_sheet("Same seeds", ["red apple", "cat"], rows, scale=2)
    counts = {color: count for count, color in sheet.getcolors(maxcolors=2**20) or []}
    assert counts[COLORS["red"]] == 128 * 128
    assert counts[COLORS["blue"]] == 3 * 128 * 128
    # Room for two cells each way, with labels above and at the left.
    assert 2 * 128 + 60 < sheet.width < 2 * 128 + 250
    assert 2 * 128 + 40 < sheet.height < 2 * 128 + 150


def test_a_row_that_lacks_a_picture_is_refused(tmp_path: Path) -> None:
    red = _picture(tmp_path, "red")
    with pytest.raises(ValueError, match="row 'ink' has 1 pictures for 2 columns"):
        draw_sheet("", ["one", "two"], [SheetRow("ink", [red])])
